"""A model of the run as a directory for others, with its model card: what transformers loads, the
same in 4 or 8 bits, or a GGUF file. Nothing is left behind before it has answered a question.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from vibelite.data.chat import end_token_id, prompt_ids, stop_token_ids
from vibelite.errors import CheckpointError
from vibelite.models.adapter import is_adapter
from vibelite.recipe.stage_section import ExportStage
from vibelite.report.model_card import CARD_NAME, model_card
from vibelite.run_dir import REMAKE_MODEL, new_directory
from vibelite.stages.context import StageContext
from vibelite.storage import CHECKSUMS_NAME, require_unchanged, sha256_of

Form = Literal["hf", "bnb-4bit", "bnb-8bit", "gguf", "gguf-q8_0"]
GGUF_NAME = "model.gguf"
GENERATION = "generation_config.json"
QUESTION = "What is 1 + 1?"
# Forms that change no weight, so that the answers must be the model's too.
EXACT: tuple[Form, ...] = ("hf", "gguf")


def run(stage: ExportStage, context: StageContext) -> None:
    """Writes the model of `start_from` to the run's export/."""
    with context.meter.span("export"):
        source = context.model_of(stage.start_from)
        card = model_card(context.run.path, stage.start_from)
        export_model(source, context.run.export_path, card=card)
    context.recorder.record_work("export")
    context.stage_dir.finish(models={stage.name: context.run.export_path})


def export_model(source: Path, target: Path, *, card: str = "", form: Form = "hf") -> None:
    """Writes the model in `source` to the new directory `target` in `form`, whole or not at all;
    adapters merged into it.

    CheckpointError where it does not answer as the model does, RecipeError for a form that this
    model or machine cannot have.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # bars of every load and save would drown the run's own lines
    with new_directory(target) as temporary:
        if form == "hf":
            write_directory(source, temporary)
        else:
            plain = temporary / "plain"
            write_directory(source, plain)
            convert(plain, temporary, form)
            check_answer(plain, temporary, form)
            shutil.rmtree(plain)
        if card:
            (temporary / CARD_NAME).write_text(card, encoding="utf-8")
        if form == "hf":
            check_answer(source, temporary, form)


def write_directory(source: Path, target: Path) -> None:
    """The model as transformers loads it. Generation ends where a message does: base models name
    the end of documents alone, and would go on after their answer.
    """
    from transformers import AutoConfig, GenerationConfig

    from vibelite.models.tokenizer import load_tokenizer

    if is_adapter(source):
        from vibelite.models.load import load_policy

        target.mkdir(exist_ok=True)
        load_policy(source).save(target)
    else:
        require_unchanged(source, remedy=REMAKE_MODEL)
        checksums = shutil.ignore_patterns(CHECKSUMS_NAME)
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=checksums)
    tokenizer = load_tokenizer(target)
    path = target / GENERATION
    settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    config = AutoConfig.from_pretrained(target)
    configs = (GenerationConfig(**settings), config, config.get_text_config())
    settings["eos_token_id"] = list(stop_token_ids(tokenizer, *configs))
    GenerationConfig(**settings).save_pretrained(target)


def convert(plain: Path, target: Path, form: Form) -> None:
    """Another form of the model in directory `plain`."""
    from vibelite.models.gguf_file import write_gguf
    from vibelite.models.quantised import write_quantised
    from vibelite.models.tokenizer import load_tokenizer

    match form:
        case "bnb-4bit":
            write_quantised(plain, target, bits=4)
        case "bnb-8bit":
            write_quantised(plain, target, bits=8)
        case "gguf" | "gguf-q8_0":
            end = end_token_id(load_tokenizer(plain))
            quantisation = "q8_0" if form == "gguf-q8_0" else "none"
            write_gguf(plain, target / GGUF_NAME, quantisation=quantisation, end_token=end)


def check_answer(source: Path, written: Path, form: Form) -> None:
    """CheckpointError unless what was written answers QUESTION, loaded by transformers alone, and,
    where its weights are those of `source`, holds the same next token for the likeliest everywhere.

    A GGUF is asked in the ids of the model's own tokenizer: transformers reads of the tokenizer in
    it neither the special tokens nor, of a Llama, how it cuts text; llama.cpp reads both.
    """
    from transformers import AutoTokenizer

    is_gguf, is_copy = form.startswith("gguf"), form == "hf" and not is_adapter(source)
    # Not of an adapter's directory, which has no tokenizer; a GGUF is made of an ordinary one.
    prompt = prompt_of(AutoTokenizer.from_pretrained(source if is_gguf else written))
    if is_copy:
        for path in source.glob("*.safetensors"):
            if sha256_of(path) != sha256_of(written / path.name):
                raise CheckpointError(f"{path}: its copy differs; it was not written, try again")
        likeliest_tokens(written, prompt, dtype="auto")  # equal weights: it has to load, no more
        return
    arguments: dict[str, Any] = {"gguf_file": GGUF_NAME} if is_gguf else {}
    answer = likeliest_tokens(written, prompt, **arguments)
    if form in EXACT and answer != (expected := expected_answer(source, prompt)):
        raise CheckpointError(
            f"the exported model ({form}) answers {QUESTION!r} with tokens {answer}, the run's "
            f"with {expected}: it was not written; {REMAKE_MODEL}"
        )


def prompt_of(tokenizer: Any) -> list[int]:
    return prompt_ids(tokenizer, [{"role": "user", "content": QUESTION}])


def expected_answer(source: Path, prompt: Sequence[int]) -> list[int]:
    """The answer of a model of the run; adapters are merged as in its export."""
    if not is_adapter(source):
        return likeliest_tokens(source, prompt)
    from vibelite.models.load import load_policy

    return likeliest(load_policy(source, device=torch.device("cpu")).model.float(), prompt)


def likeliest_tokens(directory: Path, prompt: Sequence[int], **arguments: Any) -> list[int]:
    """`likeliest` of the model in a directory, by transformers alone, in float32 on the CPU: there
    equal weights give equal tokens. Quantised weights stay as they are.
    """
    from transformers import AutoModelForCausalLM

    arguments = {"dtype": torch.float32} | arguments
    model = AutoModelForCausalLM.from_pretrained(directory, **arguments)
    return likeliest(model, prompt)


@torch.no_grad()
def likeliest(model: Any, prompt: Sequence[int]) -> list[int]:
    """The most probable next token after each token of the prompt."""
    logits = model(torch.tensor([list(prompt)], device=model.device)).logits[0]
    if not torch.isfinite(logits).all():
        raise CheckpointError("the exported model's logits are not finite; it was not written")
    return logits.argmax(-1).tolist()

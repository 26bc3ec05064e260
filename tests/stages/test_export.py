"""Exports: each form loads by transformers alone and answers; the card says what is known."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from vibelite import cli
from vibelite.errors import CheckpointError, RecipeError
from vibelite.models import gguf_file
from vibelite.models.load import load_policy
from vibelite.models.tiny import build_model, build_tokenizer
from vibelite.pipeline import run_pipeline
from vibelite.recipe.load import load_recipe
from vibelite.recipe.model_section import TinyModel
from vibelite.report.model_card import base_of, model_card
from vibelite.run_dir import read_json
from vibelite.stages.export import export_model, likeliest_tokens, prompt_of

NANO = Path(__file__).parent.parent / "integration" / "nano.yaml"
TEXTS = ["What is 1 + 1? It is 2.", "Say so in words: two."]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough for blocks of 32 and 64, with random biases and norms, so that none of them can
    get lost unseen.
    """
    path = tmp_path_factory.mktemp("models") / "model"
    tokenizer = build_tokenizer(TEXTS, 320)
    sizes = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "mlp_size": 128}
    config = TinyModel.model_validate({"source": "tiny", "vocab_size": 320, **sizes})
    built = build_model(config, tokenizer, seed=0)
    with torch.no_grad():
        for number, tensor in enumerate(built.parameters()):
            noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number))
            tensor.add_(0.2 * noise)
    built.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def llama(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with SmolLM2's way to cut text."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("models") / "llama"
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
        tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 5e4},
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def random_logits(directory: Path, **arguments: Any) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    built = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, **arguments)
    ids = torch.arange(40)[None] * 7 % built.config.vocab_size
    with torch.no_grad():
        return built(ids).logits


@pytest.mark.parametrize("name", ["model", "llama"])
def test_a_gguf_is_the_same_model(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue(name)
    export_model(source, tmp_path / "out", form="gguf")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "SHA256SUMS", "model.gguf",
    ]  # fmt: skip
    expected = random_logits(source)
    found = random_logits(tmp_path / "out", gguf_file="model.gguf")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    prompt = [3, 1, 4, 1, 5]
    answer = likeliest_tokens(tmp_path / "out", prompt, gguf_file="model.gguf")
    assert answer == likeliest_tokens(source, prompt) and len(set(answer)) > 1


def test_a_gguf_has_the_tokenizer_and_where_messages_end(model: Path, tmp_path: Path) -> None:
    import gguf

    export_model(model, tmp_path / "out", form="gguf")
    fields = gguf.GGUFReader(tmp_path / "out" / "model.gguf").fields
    found = {name: field.contents() for name, field in fields.items()}
    tokenizer = load_policy(model).tokenizer
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    assert found["tokenizer.ggml.tokens"] == [text for text, _ in vocabulary]
    kinds = dict(
        zip(found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"], strict=True)
    )
    assert kinds["<|user|>"] == kinds["<|end|>"] == gguf.TokenType.CONTROL
    assert kinds["1"] == gguf.TokenType.NORMAL
    assert found["tokenizer.ggml.eos_token_id"] == tokenizer.convert_tokens_to_ids("<|end|>")
    assert found["tokenizer.ggml.pre"] == "qwen2"
    assert found["tokenizer.chat_template"] == tokenizer.chat_template
    assert found["qwen2.context_length"] == 512


def test_a_gguf_in_bfloat16_is_exact(model: Path, tmp_path: Path) -> None:
    load_policy(model, dtype="bfloat16").save(tmp_path / "half")
    export_model(tmp_path / "half", tmp_path / "out", form="gguf")
    found = random_logits(tmp_path / "out", gguf_file="model.gguf")
    torch.testing.assert_close(found, random_logits(tmp_path / "half"), rtol=1e-4, atol=1e-5)
    sizes = [(tmp_path / "half" / "model.safetensors"), (tmp_path / "out" / "model.gguf")]
    weights, file = (path.stat().st_size for path in sizes)
    assert file < 1.5 * weights  # and not twice, as in float32


def test_eight_bits_are_near(model: Path, tmp_path: Path) -> None:
    export_model(model, tmp_path / "out", form="gguf-q8_0")
    expected = random_logits(model)
    found = random_logits(tmp_path / "out", gguf_file="model.gguf")
    error = (found - expected).norm() / expected.norm()
    assert 1e-4 < error < 0.1
    plain = tmp_path / "plain"
    export_model(model, plain, form="gguf")
    assert (tmp_path / "out/model.gguf").stat().st_size < (plain / "model.gguf").stat().st_size / 2


@pytest.mark.parametrize(("form", "largest"), [("bnb-8bit", 0.1), ("bnb-4bit", 0.6)])
def test_bitsandbytes_directories_load_by_themselves(
    form: Any, largest: float, model: Path, tmp_path: Path
) -> None:
    export_model(model, tmp_path / "out", form=form)
    config = read_json(tmp_path / "out" / "config.json")
    assert config["quantization_config"]["load_in_" + form.removeprefix("bnb-")] is True
    expected = random_logits(model)
    error = (random_logits(tmp_path / "out") - expected).norm() / expected.norm()
    assert 1e-4 < error < largest


def test_what_cannot_be_written_is_refused_and_nothing_stays(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    config = read_json(other / "config.json")
    config["rope_parameters"] = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match="rotary positions of type linear.*convert_hf_to_gguf"):
        export_model(other, tmp_path / "out", form="gguf")
    with pytest.raises(RecipeError, match="only qwen2 and llama can be written"):
        gguf_file.require_known_model(type("Config", (), {"model_type": "gemma3"}))
    tokenizer = {"model": {"type": "BPE"}, "pre_tokenizer": {"type": "Whitespace"}}
    with pytest.raises(RecipeError, match="cuts text in a way"):
        gguf_file.cut_of(tokenizer)
    # Rows of heads in the wrong order: the file is whole, and the model is another one.
    monkeypatch.setattr(gguf_file, "in_llamas_order", lambda key, tensor, _: tensor.flip(0))
    with pytest.raises(CheckpointError, match="answers 'What is 1 \\+ 1\\?' with tokens"):
        export_model(model, tmp_path / "out", form="gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other"]


def test_generation_ends_where_a_message_does(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(model, source)
    settings = {"eos_token_id": 5, "temperature": 0.7, "do_sample": True}
    (source / "generation_config.json").write_text(json.dumps(settings))
    export_model(source, tmp_path / "out")
    found = read_json(tmp_path / "out" / "generation_config.json")
    end = load_policy(source).tokenizer.convert_tokens_to_ids("<|end|>")
    assert found["eos_token_id"] == [end, 5] and found["temperature"] == 0.7


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an adapter, so that its export is a merged one."""
    directory = tmp_path_factory.mktemp("run") / "run"
    overrides = ["stages.sft.num_steps=2", "stages.mgpo.num_steps=2", "stages.fuse.tail_average=0"]
    overrides += ["adapter={kind: lora, rank: 4}", "cost={usd_per_hour: 1, source: a test}"]
    overrides += ["data.decontaminate={against: [held-out]}", "stages.evaluate.models=[base, mgpo]"]
    run_pipeline(load_recipe(NANO, overrides), recipe_path=NANO, run_dir=directory)
    return directory


def test_the_card_says_what_the_run_knows(finished: Path) -> None:
    card = (finished / "export" / "README.md").read_text()
    assert ModelCard(card).data.to_dict()["license"] == "none"
    assert "stage `mgpo`" in card and "none: random weights" in card
    (mine,) = [
        row for row in read_json(finished / "summary.json")["results"] if row["stage"] == "mgpo"
    ]
    low, high = (f"{100 * value:.1f}" for value in mine["pass_at_1_ci"])
    assert (
        f"| held-out | this model | 8 x 4 | {100 * mine['pass_at_1']:.1f} [{low}, {high}]" in card
    )
    manifest = read_json(finished / "manifest.json")
    assert manifest["recipe_sha256"] in card and manifest["data_sha256"]["traces"][:16] in card
    assert "| traces/traces | 48 |" in card or "| traces/traces |" in card
    assert "| mgpo | mgpo | fuse | problems train; num_steps 2;" in card
    assert "a test" in card and "| all |" in card
    assert "was not evaluated" in model_card(finished, "sft")


def test_licences_are_looked_up_and_never_guessed(tmp_path: Path) -> None:
    hub = {"source": "pretrained", "revision": "main"}
    assert base_of({**hub, "path": "Qwen/Qwen2.5-Math-1.5B"}, tmp_path)[1] == "apache-2.0"
    assert "not for commercial" in base_of({**hub, "path": "Qwen/Qwen2.5-Coder-3B"}, tmp_path)[1]
    assert base_of({**hub, "path": "some/model"}, tmp_path)[1] == "unknown"
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "README.md").write_text("---\ntags: [a]\nlicense: mit\n---\n# Own\n")
    own = {**hub, "path": str(tmp_path / "own"), "revision": "abc"}
    assert base_of(own, tmp_path) == (f"{tmp_path / 'own'}@abc", "mit")


def test_the_command_writes_every_form_with_its_card(finished: Path, tmp_path: Path) -> None:
    for form in ("hf", "gguf"):
        arguments = ["export", str(finished), "--to", str(tmp_path / form), "--format", form]
        done = CliRunner().invoke(cli.app, [*arguments, "--stage", "fuse"])
        assert done.exit_code == 0, (done.exception, done.output)
        assert done.stdout.strip() == str(tmp_path / form)
        assert "stage `fuse`" in (tmp_path / form / "README.md").read_text()
    again = CliRunner().invoke(cli.app, ["export", str(finished), "--to", str(tmp_path / "hf")])
    assert "exists already" in str(again.exception)


ALONE = """
import sys
from pathlib import Path
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "vibelite":
            raise ImportError(name + " must not be needed")
sys.meta_path.insert(0, Refuse())
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
inputs = tokenizer.apply_chat_template(
    [{"role": "user", "content": "What is 1 + 1?"}],
    add_generation_prompt=True, return_tensors="pt", return_dict=True,
)
tokens = model.generate(**inputs, do_sample=False, min_new_tokens=16, max_new_tokens=16)
print(tokens[0, inputs["input_ids"].shape[1]:].tolist())
"""


def test_the_export_answers_in_a_process_with_transformers_alone(finished: Path) -> None:
    """Of a merged adapter, without this package; scripts/fresh_export.sh does the same in a fresh
    virtual environment, which has transformers and torch alone.
    """
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(finished / "export")],
        capture_output=True, text=True, cwd="/", env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    adapter = read_json(finished / "stages" / "03-mgpo" / "status.json")["models"]["mgpo"]
    policy = load_policy(finished / "stages" / "03-mgpo" / adapter)
    ids = torch.tensor([prompt_of(policy.tokenizer)])
    ends = read_json(finished / "export" / "generation_config.json")["eos_token_id"]
    settings = {"do_sample": False, "min_new_tokens": 16, "max_new_tokens": 16}
    built: Any = policy.model
    expected = built.generate(ids, eos_token_id=ends, **settings)
    assert json.loads(done.stdout) == expected[0, ids.shape[1] :].tolist()

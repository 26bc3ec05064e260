"""`vibelite chat`: talk to a run's model, or to two models side by side."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vibelite.errors import RecipeError, VibeLiteError

if TYPE_CHECKING:
    from vibelite.models.policy import Policy
    from vibelite.types import Message, Problem

BASE = "base"


def chat(
    model: Annotated[str, typer.Argument(help="A run directory, a model directory or hub name.")],
    against: Annotated[
        str, typer.Option(help="A second model, or `base`: what the run began with.")
    ] = "",
    prompt: Annotated[str, typer.Option(help="Answer this alone, and end.")] = "",
    recipe: Annotated[
        Path | None, typer.Option(help="The run's recipe, where its data are not found from here.")
    ] = None,
    system: Annotated[str, typer.Option(help="The system message.")] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 512,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.7,
) -> None:
    """Talk to a model; its answer appears as it is written. An empty line or Ctrl-D ends.

    vibelite chat runs/quickstart --against base

    Where the prompt is a problem of the run, the verdict on each answer follows.
    """
    models = chosen_models(model, against)
    problems = run_problems(Path(model), recipe)
    policies = {name: load(path) for name, path in models.items()}
    histories: dict[str, list[Message]] = {name: [] for name in policies}
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature}
    for text in [prompt] if prompt else typed_prompts():
        problem = problems.get(text.strip())
        for name, policy in policies.items():
            if len(policies) > 1:
                print(f"[{name}]")
            histories[name].append({"role": "user", "content": text})
            answer = answered(policy, histories[name], system, **settings)
            histories[name].append({"role": "assistant", "content": answer})
            if problem is not None:
                print(verdict_line(problem, answer))


def chosen_models(model: str, against: str) -> dict[str, str]:
    """Name to show -> where the model is. RecipeError where a run has none yet."""
    path = Path(model)
    is_run = (path / "recipe.resolved.yaml").is_file()
    chosen = {path.name or model: model}
    if is_run:
        if not (path / "export").is_dir():
            raise RecipeError(f"{model}: nothing is exported yet; name one of its checkpoints")
        chosen = {"final": str(path / "export")}
    if against == BASE:
        if not is_run:
            raise RecipeError("--against base: only for a run directory; name a model instead")
        chosen = {BASE: str(path / "base"), **chosen}
    elif against:
        chosen = {Path(against).name: against, **chosen}
    return chosen


def run_problems(run_dir: Path, recipe: Path | None) -> dict[str, Problem]:
    """The problems of a run by the text of their prompt; empty for what is no run. Where its data
    are not found this is told on stderr: the model can be talked to without them.
    """
    path = recipe or run_dir / "recipe.resolved.yaml"
    if not path.is_file():
        return {}
    from vibelite.data.sources import load_problems
    from vibelite.recipe.load import load_recipe

    try:
        loaded = load_recipe(path)
        return {
            problem.messages[-1]["content"].strip(): problem
            for source in loaded.data.problems.values()
            for problem in load_problems(source, recipe_dir=path.parent, seed=loaded.seed)
        }
    except VibeLiteError as error:
        first = str(error).splitlines()[0]
        print(f"no verdicts: name the run's recipe with --recipe ({first})", file=sys.stderr)
        return {}


def load(path: str) -> Policy:
    from vibelite.models.load import load_policy

    policy = load_policy(path)
    policy.model.set_attn_implementation("sdpa")  # which keeps keys and values between tokens
    return policy


def typed_prompts() -> Iterator[str]:
    while True:
        try:
            text = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        if not text.strip():
            return
        yield text


def answered(
    policy: Policy, messages: list[Message], system: str, *, max_new_tokens: int, temperature: float
) -> str:
    """The answer, which is also printed while it is written."""
    import torch
    from transformers import GenerationConfig, TextStreamer

    from vibelite.data.chat import opened_thinking, prompt_ids
    from vibelite.recipe.data_section import Data
    from vibelite.stages.engines import stop_ids_of

    model: Any = policy.model
    tokenizer = policy.tokenizer
    prompt = prompt_ids(tokenizer, messages, Data(system_prompt=system))
    ids, ends = torch.tensor([prompt], device=policy.device), list(stop_ids_of(policy))
    sampled = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {}
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens, eos_token_id=ends, pad_token_id=ends[0], **sampled
    )
    with torch.inference_mode():
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=settings,
            streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True),
        )
    written = tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True)
    return f"{opened_thinking(tokenizer, prompt)}{written}"


def verdict_line(problem: Problem, answer: str) -> str:
    """What the run's verifier says of an answer; programs are judged in the sandbox."""
    from vibelite.rewards.pool import VerifierPool
    from vibelite.types import Completion

    with VerifierPool(num_workers=1) as verifiers:
        verdict = verifiers.submit(problem, Completion((), (), "stop", answer)).result()
    expected = f", expected {problem.answer}" if problem.answer else ""
    return f"verdict: reward {verdict.reward:g}{expected} ({verdict.detail})"

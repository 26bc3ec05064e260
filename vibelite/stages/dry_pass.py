"""What cannot work is told in seconds, before a model is loaded: each problem set's reward judges a
few texts in a real worker, and prompts and traces go through the chat template.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

from vibelite.data.chat import prompt_ids, trace_ids
from vibelite.data.sources import load_problems, load_traces
from vibelite.errors import DataError, RecipeError
from vibelite.recipe.data_section import ProblemTable, TraceTable
from vibelite.recipe.model_section import Model, PretrainedModel, SmolLM2Model, TinyModel
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import SFTStage, as_list
from vibelite.rewards.answer_text import final_gold
from vibelite.rewards.pool import VerifierPool
from vibelite.rewards.sandbox_slot import without_controls
from vibelite.types import Completion, Problem, Trace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_ROWS, NUM_TRACES = 2, 20
SHOWN_CHARS = 600
ORDINARY = "I think that the answer is 7."
PROGRAM = "```python\nprint(7)\n```"
# Verifiers whose problems bring no answer that a completion could repeat.
WITHOUT_ANSWER = ("code", "instruct")


def dry_pass(
    recipe: Recipe,
    problem_sets: Mapping[str, Sequence[Problem]],
    trace_sets: Mapping[str, Sequence[Trace]],
    tokenizer: PreTrainedTokenizerBase | None,
) -> list[str]:
    """What was tried, in lines to print: a prompt, the reward of its own answer, lengths in tokens.

    Without a tokenizer nothing is rendered or counted; empty sets are left out. Raises DataError,
    with the row, for a reward that fails or returns no number in [0, 1], and for messages that the
    chat template refuses.
    """
    lines = []
    problem_sets = {name: problems for name, problems in problem_sets.items() if problems}
    trace_sets = {name: traces for name, traces in trace_sets.items() if traces}
    with VerifierPool(num_workers=1, seconds=recipe.verification.seconds) as pool:
        for name, problems in problem_sets.items():
            rewards = [_try_reward(name, problem, pool) for problem in problems[:NUM_ROWS]]
            line = f"{name}: {len(problems)} problems; of the first, {rewards[0]}"
            if tokenizer is not None:
                lengths = _prompt_lengths(recipe, name, problems[:NUM_ROWS], tokenizer)
                line += f"; its prompt has {lengths[0]} tokens"
            lines.append(line)
    if tokenizer is not None:
        lines += [_try_traces(recipe, name, set_, tokenizer) for name, set_ in trace_sets.items()]
    if first := next((problems[0] for problems in problem_sets.values()), None):
        lines += ["a prompt:", _shown_prompt(recipe, first, tokenizer)]
    return lines


def local_sets(
    recipe: Recipe, recipe_dir: Path
) -> tuple[dict[str, list[Problem]], dict[str, list[Trace]]]:
    """The problem sets and traces of the recipe whose rows lie on this machine."""
    data, seed = recipe.data, recipe.seed
    problem_sets = {
        name: load_problems(source, recipe_dir=recipe_dir, seed=seed)
        for name, source in data.problems.items()
        if isinstance(source, ProblemTable) and source.local_path(recipe_dir)
    }
    trace_sets = {
        name: load_traces(source, data.problems, recipe_dir=recipe_dir, seed=seed)
        for name, source in data.traces.items()
        if isinstance(source, TraceTable) and source.local_path(recipe_dir)
    }
    return problem_sets, trace_sets


def local_dry_pass(recipe: Recipe, recipe_dir: Path) -> list[str]:
    """The dry pass over what lies on this machine; no lines where nothing does."""
    problem_sets, trace_sets = local_sets(recipe, recipe_dir)
    if not problem_sets and not trace_sets:
        return []
    tokenizer = None
    if isinstance(recipe.model, TinyModel) or (
        isinstance(recipe.model, PretrainedModel) and (recipe_dir / recipe.model.path).is_dir()
    ):
        tokenizer = tokenizer_of(recipe, recipe_dir, trace_sets)
    return dry_pass(recipe, problem_sets, trace_sets, tokenizer)


def tokenizer_of(
    recipe: Recipe, recipe_dir: Path, trace_sets: Mapping[str, Sequence[Trace]]
) -> PreTrainedTokenizerBase:
    """The tokenizer of the recipe's base model, called as the recipe calls that. RecipeError where
    there is none.
    """
    tokenizer = _base_tokenizer(recipe.model, recipe_dir, trace_sets)
    tokenizer.name_or_path = getattr(recipe.model, "path", recipe.model.source)
    return tokenizer


def _base_tokenizer(
    model: Model, recipe_dir: Path, trace_sets: Mapping[str, Sequence[Trace]]
) -> PreTrainedTokenizerBase:
    from vibelite.models.tokenizer import load_tokenizer

    match model:
        case TinyModel():
            from vibelite.models.tiny import build_tokenizer

            return build_tokenizer(texts_of(trace_sets), model.vocab_size)
        case SmolLM2Model():
            from vibelite.models.smollm2 import smollm2_directory

            return load_tokenizer(smollm2_directory())
        case PretrainedModel():
            local = recipe_dir / model.path
            path = local if local.is_dir() else model.path
            try:
                return load_tokenizer(path, model.revision)
            except (OSError, ValueError) as error:
                reason = str(error).strip().splitlines()[0]
                raise RecipeError(
                    f"{path}: no tokenizer could be loaded ({reason}); "
                    "give a Hugging Face directory, or a hub name and a network"
                ) from error


def texts_of(trace_sets: Mapping[str, Sequence[Trace]]) -> Iterator[str]:
    """Every message of every trace, on which a tiny model's tokenizer is trained."""
    for traces in trace_sets.values():
        for trace in traces:
            yield from (message["content"] for message in trace.messages)


def _try_reward(name: str, problem: Problem, pool: VerifierPool) -> str:
    """The reward of the problem's own answer, in words. DataError where the reward fails."""
    texts = {"an empty text": "", "an ordinary text": ORDINARY}
    if problem.verifier == "code":
        texts["an ordinary text"] = PROGRAM
    if problem.verifier not in WITHOUT_ANSWER and problem.answer:
        is_math, is_own = (problem.verifier == kind for kind in ("math", "custom"))
        answer = final_gold(problem.answer) if is_math else problem.answer
        texts["the answer itself"] = answer if is_own else f"The answer is \\boxed{{{answer}}}."
    verdict, what = None, ""
    for what, text in texts.items():
        where = f"data.problems.{name}: problem {problem.id}: the reward of {what}"
        try:
            verdict = pool.submit(problem, Completion((), (), "stop", text)).result()
        except DataError as error:
            raise DataError(f"data.problems.{name}: {error}") from error
        if verdict.failure is not None:
            raise DataError(f"{where}, {text!r}: {verdict.detail}")
    assert verdict is not None, "an empty text was tried"
    return f"{what} earns {verdict.reward:g} ({verdict.detail})"


def _prompt_lengths(
    recipe: Recipe, name: str, problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    where = f"data.problems.{name}: problem"
    return [
        len(prompt_ids(tokenizer, problem.messages, recipe.data, row=f"{where} {problem.id}"))
        for problem in problems
    ]


def _try_traces(
    recipe: Recipe, name: str, traces: Sequence[Trace], tokenizer: PreTrainedTokenizerBase
) -> str:
    where = f"data.traces.{name}: trace of"
    lengths = [
        len(trace_ids(tokenizer, trace.messages, recipe.data, row=f"{where} {trace.problem_id}")[0])
        for trace in traces[:NUM_TRACES]
    ]
    line = (
        f"{name}: {len(traces)} traces, the first {len(lengths)} of at most {max(lengths)} tokens"
    )
    for stage in recipe.stages:
        if isinstance(stage, SFTStage) and name in as_list(stage.traces):
            dropped = sum(length > stage.max_tokens for length in lengths)
            if dropped:
                line += f"; stages.{stage.name}.max_tokens ({stage.max_tokens}) drops {dropped}"
    return line


def _shown_prompt(
    recipe: Recipe, problem: Problem, tokenizer: PreTrainedTokenizerBase | None
) -> str:
    """The prompt as the model will read it, or as the row has it without a tokenizer."""
    text = "\n".join(message["content"] for message in problem.messages)
    if tokenizer is not None:
        ids = prompt_ids(tokenizer, problem.messages, recipe.data)
        text = str(tokenizer.decode(ids))
    cut = text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]} ..."
    return indent(without_controls(cut), "  ")

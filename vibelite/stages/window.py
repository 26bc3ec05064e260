"""Whether prompts and what is to be written after them fit into the positions of a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vibelite.data.chat import prompt_ids
from vibelite.errors import DataError
from vibelite.models.load import positions_of
from vibelite.recipe.stage_section import EvaluateStage, SolvingStage
from vibelite.stages.context import StageContext
from vibelite.types import Problem


def require_room(
    config: Any,
    problems: Sequence[Problem],
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
) -> None:
    """DataError, which names the longest of the `prompts` (token ids), where one of them leaves no
    room for `max_new_tokens` in the model's positions.
    """
    positions = positions_of(config)
    lengths = [len(prompt) for prompt in prompts]
    if positions is None or max(lengths, default=0) + max_new_tokens <= positions:
        return
    longest = max(lengths)
    problem = problems[lengths.index(longest)]
    num_long = sum(length + max_new_tokens > positions for length in lengths)
    others = f", as with {num_long - 1} other problems" if num_long > 1 else ""
    remedy = f"lower max_new_tokens to {positions - longest}, or " if longest < positions else ""
    raise DataError(
        f"problem {problem.id}: its prompt of {longest} tokens and max_new_tokens "
        f"({max_new_tokens}) are more than the model's {positions} positions{others}; "
        f"{remedy}leave such rows out"
    )


def check_prompts(context: StageContext, model: Path) -> None:
    """Renders and counts every prompt that a stage of the run will sample after, before anything is
    trained. DataError for one that the chat template of `model` refuses, or that is too long.
    """
    from transformers import AutoConfig, AutoTokenizer

    tokenizer, config = AutoTokenizer.from_pretrained(model), AutoConfig.from_pretrained(model)
    settings = context.recipe.model
    # As the recipe calls it, and not the run's copy.
    tokenizer.name_or_path = getattr(settings, "path", settings.source)
    longest: dict[str, int] = {}
    for stage in context.recipe.stages:
        if isinstance(stage, EvaluateStage):
            names = stage.benchmarks
        elif isinstance(stage, SolvingStage):
            names = [stage.problems]
        else:
            continue
        for name in names:
            longest[name] = max(stage.sampling.max_new_tokens, longest.get(name, 0))
    for name, max_new_tokens in longest.items():
        problems = context.all_problems(name)
        prompts = [
            prompt_ids(tokenizer, problem.messages, context.recipe.data, row=problem.id)
            for problem in problems
        ]
        require_room(config, problems, prompts, max_new_tokens)

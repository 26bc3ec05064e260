"""Whether prompts and what is to be written after them fit into the positions of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vibelite.data.chat import prompt_ids
from vibelite.errors import DataError, RecipeError
from vibelite.recipe.model_section import PretrainedModel
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import EvaluateStage, ProbeStage, SFTStage, SolvingStage, as_list
from vibelite.types import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def positions_of(config: Any) -> int | None:
    """How many tokens a model with this transformers configuration reads; None = any number, as
    where the rotary base grows with the text.
    """
    text = config.get_text_config()
    rotary = getattr(text, "rope_parameters", None)
    is_dynamic = isinstance(rotary, dict) and rotary.get("rope_type") == "dynamic"
    return None if is_dynamic else getattr(text, "max_position_embeddings", None)


def require_window(recipe: Recipe, directory: Path) -> None:
    """RecipeError where a stage asks for longer sequences than the model in `directory` has
    positions: engines would cut them off, or go on with positions that no training has seen.
    """
    from transformers import AutoConfig

    positions = positions_of(AutoConfig.from_pretrained(directory))
    if not isinstance(recipe.model, PretrainedModel) or positions is None:
        return
    for stage in recipe.stages:
        sampling = getattr(stage, "sampling", None)
        if isinstance(stage, SFTStage) and stage.max_tokens > positions:
            field, longest = "max_tokens", stage.max_tokens
        elif sampling is not None and sampling.max_new_tokens >= positions:
            field, longest = "sampling.max_new_tokens", sampling.max_new_tokens
        else:
            continue
        raise RecipeError(
            f"stages.{stage.name}.{field} ({longest}): {recipe.model.path} has {positions} "
            "positions for prompt and answer; set model.max_position, and with it model.rope_theta"
        )


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


def check_prompts(
    recipe: Recipe,
    problem_sets: Mapping[str, Sequence[Problem]],
    tokenizer: PreTrainedTokenizerBase,
    model: Path,
) -> None:
    """Renders and counts every prompt that a stage of the run will sample after, before anything is
    trained. DataError for one that the chat template refuses, or that is too long for the model
    in directory `model`.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    longest: dict[str, int] = {}
    for stage in recipe.stages:
        if isinstance(stage, EvaluateStage):
            names = stage.benchmarks
        elif isinstance(stage, SolvingStage | ProbeStage):
            names = as_list(stage.problems)
        else:
            continue
        for name in names:
            longest[name] = max(stage.sampling.max_new_tokens, longest.get(name, 0))
    for name, max_new_tokens in longest.items():
        problems = problem_sets[name]
        prompts = [
            prompt_ids(tokenizer, problem.messages, recipe.data, row=problem.id)
            for problem in problems
        ]
        require_room(config, problems, prompts, max_new_tokens)

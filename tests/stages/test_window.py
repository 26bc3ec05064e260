"""Prompts that leave no room for what is to be written after them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from transformers import Gemma3Config, LlamaConfig

from tests.policies import tiny_policy
from vibelite.data.chat import prompt_ids
from vibelite.errors import DataError
from vibelite.recipe.data_section import Data
from vibelite.recipe.stage_section import FuseStage, ProbeStage, Sampling
from vibelite.stages.window import check_prompts, positions_of, require_room
from vibelite.types import Problem


def problem(name: str, question: str) -> Problem:
    return Problem(name, "s", ({"role": "user", "content": question},), "1", "exact")


PROBLEMS = [problem(f"own/{n}", "Why? " * n) for n in (1, 9, 4)]


def test_the_positions_of_a_model_are_those_of_its_text_part() -> None:
    assert positions_of(LlamaConfig(max_position_embeddings=48)) == 48
    assert positions_of(Gemma3Config(text_config={"max_position_embeddings": 96})) == 96
    # Its rotary base grows with the text, so that there is no last position.
    grows = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    assert positions_of(LlamaConfig(max_position_embeddings=48, rope_parameters=grows)) is None


def test_a_prompt_may_fill_the_window_and_not_one_token_more() -> None:
    prompts = [[0] * 5, [0] * 20, [0] * 12]
    config = LlamaConfig(max_position_embeddings=30)
    require_room(config, PROBLEMS, prompts, 10)
    with pytest.raises(DataError) as caught:
        require_room(config, PROBLEMS, prompts, 19)
    assert str(caught.value) == (
        "problem own/9: its prompt of 20 tokens and max_new_tokens (19) are more than the model's "
        "30 positions, as with 1 other problems; lower max_new_tokens to 10, or leave such rows out"
    )
    with pytest.raises(DataError, match="positions, as with 2 other problems; leave"):
        require_room(LlamaConfig(max_position_embeddings=4), PROBLEMS, prompts, 1)


@pytest.mark.parametrize(("room", "is_enough"), [(16, True), (15, False)])
def test_a_run_counts_its_prompts_with_the_longest_completions_before_it_trains(
    tmp_path: Path, room: int, is_enough: bool
) -> None:
    policy = tiny_policy()
    asked = Data(system_prompt="Think.")
    longest = max(
        len(prompt_ids(policy.tokenizer, problem.messages, asked)) for problem in PROBLEMS
    )
    policy.model.config.max_position_embeddings = longest + room
    policy.save(tmp_path)
    stages: list[Any] = [FuseStage(kind="fuse")]
    for number in (3, 16):
        sampling = Sampling(max_new_tokens=number)
        stages.append(ProbeStage(kind="probe", problems="own", sampling=sampling))
    recipe = cast(Any, SimpleNamespace(stages=stages, data=asked))
    asked_for = (recipe, {"own": PROBLEMS}, policy.tokenizer, tmp_path)
    if is_enough:
        check_prompts(*asked_for)
    else:
        with pytest.raises(DataError, match="problem own/9: its prompt of"):
            check_prompts(*asked_for)

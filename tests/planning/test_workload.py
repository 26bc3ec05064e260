"""What a recipe asks for, counted by hand: problems, tokens, models and bytes on disk."""

from pathlib import Path
from typing import Any

import pytest

from vibelite.planning.model_shape import ModelShape
from vibelite.planning.plan import disk_needs
from vibelite.planning.workload import Assumptions, count_problems, stage_work
from vibelite.recipe.load import load_recipe
from vibelite.recipe.schema import Recipe

HUB = {"source": "hub", "path": "owner/name"}
SUBJECTS = {"Algebra": "algebra", "Prealgebra": "algebra", "Geometry": "geometry"}
BY_SUBJECT = {"columns": {"subdomain": "subject", "subdomains": SUBJECTS}, "num_per_subdomain": 64}


@pytest.mark.parametrize(
    ("source", "count"),
    [
        (HUB, 1000),
        ({**HUB, "num_problems": 4000}, 4000),
        ({**HUB, **BY_SUBJECT}, 128),
        ({**HUB, **BY_SUBJECT, "num_problems": 100}, 100),
        ({**HUB, "num_per_subdomain": 64}, 1000),
        ({**HUB, "local": "three.jsonl"}, 3),
        ({"source": "benchmark", "name": "lcb-v6"}, 131),
        ({"source": "benchmark", "name": "math500", "num_problems": 20}, 20),
        ({"source": "file", "path": "three.jsonl"}, 3),
        ({"source": "file", "path": "three.jsonl", "num_problems": 2}, 2),
    ],
)
def test_problems_are_counted_or_taken_to_be_as_many_as_are_asked_for(tmp_path, source, count):
    (tmp_path / "three.jsonl").write_text("{}\n{}\n\n{}\n")
    values = {
        "name": "counting",
        "model": {"source": "smollm2"},
        "data": {"problems": {"set": source}},
        "stages": [{"kind": "export", "start_from": "base"}],
    }
    recipe = Recipe.model_validate(values)
    assert count_problems(recipe, "set", tmp_path, Assumptions()) == count


def mgpo_recipe(engine: str = "transformers", **stage: Any) -> Recipe:
    values = {
        "name": "rows",
        "model": {"source": "smollm2"},
        "rollout": {"engine": engine},
        "data": {"problems": {"train": HUB}},
        "stages": [
            {
                "kind": "mgpo",
                "start_from": "base",
                "num_steps": 10,
                "problems_per_step": 9,
                "group_size": 16,
                "sampling": {"max_new_tokens": 64, "max_sequences": 56},
                "optimizer": {"lr": 1.0},
                **stage,
            }
        ],
    }
    return Recipe.model_validate(values)


@pytest.mark.parametrize(("engine", "rows"), [("transformers", 48), ("vllm", 56)])
def test_vllm_fills_its_rows_with_parts_of_groups(tmp_path, engine, rows):
    (work,) = stage_work(mgpo_recipe(engine), tmp_path, Assumptions())
    assert work.rows == rows and work.is_paged is (engine == "vllm")


def test_the_work_of_a_stage_of_reinforcement_by_hand(tmp_path):
    recipe = mgpo_recipe(
        updates_per_rollout=2, kl_coef=0.1, keep_every=4, tokens_per_micro_batch=512
    )
    assumed = Assumptions(prompt_tokens=100.0, length_fraction=0.5)
    (work,) = stage_work(recipe, tmp_path, assumed)
    length = 100 + 32
    assert (work.prompts, work.completions) == (90, 1440)
    assert work.num_updates == 20
    assert work.trained_tokens == 20 * 144 * length
    # Once before the two updates of a step, and once by the reference.
    assert work.scored_tokens == 10 * 2 * 144 * length
    assert work.head_share == 32 / length
    assert work.num_micro_batches == 20 * (144 // 3)  # three of 132 tokens in 512
    assert (work.micro_batch_tokens, work.accumulates) == (512, True)
    assert work.kept_models == 1 + 2
    assert work.holds_reference
    (alone,) = stage_work(mgpo_recipe(), tmp_path, assumed)
    assert (alone.scored_tokens, alone.kept_models, alone.holds_reference) == (0, 1, False)


@pytest.mark.parametrize(
    ("max_rounds", "share", "sampled", "trained"),
    [(0, 0.5, 1, 0.5), (2, 0.5, 1.75, 0.875), (2, 0, 3, 0)],
)
def test_refill_samples_what_the_round_before_has_left(
    tmp_path, max_rounds, share, sampled, trained
):
    assumed = Assumptions(prompt_tokens=100.0, length_fraction=0.5, trained_fraction=share)
    recipe = mgpo_recipe(refill={"max_rounds": max_rounds})
    (work,) = stage_work(recipe, tmp_path, assumed)
    assert (work.prompts, work.completions) == (90 * sampled, 1440 * sampled)
    assert work.trained_tokens == 1440 * trained * 132


def test_the_disk_holds_the_states_that_are_kept_and_the_one_that_is_written(tmp_path):
    recipe = mgpo_recipe(keep_every=4)
    shape = ModelShape(2, 8, 16, 2, 1, 4, 32, True)
    works = stage_work(recipe, tmp_path, Assumptions())
    (need,) = disk_needs(recipe, shape, works, shape.num_parameters)
    # The base, two kept models and the last one; a float32 weight and two moments each.
    assert need.models == 4 * 4 * shape.num_parameters
    kept = recipe.checkpoint.keep_last
    assert need.states == (kept + 1) * 12 * shape.num_parameters


def test_every_model_that_a_stage_reads_is_counted():
    path = Path(__file__).parents[1] / "integration" / "nano.yaml"
    works = stage_work(load_recipe(path), path.parent, Assumptions())
    models = {work.stage: work.num_models for work in works}
    # Three checkpoints of fine-tuning; base, sft, probe, fuse and mgpo are evaluated.
    assert models == {"sft": 1, "probe": 3, "fuse": 3, "mgpo": 1, "evaluate": 5, "export": 1}

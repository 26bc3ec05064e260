"""How many problems a plan counts on."""

from pathlib import Path
from typing import Any

import pytest

from vibelite.planning.workload import Assumptions, count_problems, stage_work
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
def test_problems_are_counted_or_taken_to_be_as_many_as_are_asked_for(
    tmp_path: Path, source: dict[str, Any], count: float
) -> None:
    (tmp_path / "three.jsonl").write_text("{}\n{}\n\n{}\n")
    values = {
        "name": "counting",
        "model": {"source": "smollm2"},
        "data": {"problems": {"set": source}},
        "stages": [{"kind": "export", "start_from": "base"}],
    }
    recipe = Recipe.model_validate(values)
    assert count_problems(recipe, "set", tmp_path, Assumptions()) == count


@pytest.mark.parametrize(("engine", "rows"), [("transformers", 48), ("vllm", 56)])
def test_vllm_fills_its_rows_with_parts_of_groups(tmp_path: Path, engine: str, rows: int) -> None:
    values = {
        "name": "rows",
        "model": {"source": "smollm2"},
        "rollout": {"engine": engine},
        "data": {"problems": {"train": HUB}},
        "stages": [
            {
                "kind": "mgpo",
                "start_from": "base",
                "num_steps": 1,
                "problems_per_step": 9,
                "group_size": 16,
                "sampling": {"max_new_tokens": 64, "max_sequences": 56},
                "optimizer": {"lr": 1.0},
            }
        ],
    }
    (work,) = stage_work(Recipe.model_validate(values), tmp_path, Assumptions())
    assert work.rows == rows and work.is_paged is (engine == "vllm")

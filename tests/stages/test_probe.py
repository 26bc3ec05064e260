"""Which checkpoint becomes a sub-domain's specialist, the numbers that decide it, and what becomes
of them when a probing is killed.
"""

import json
import random
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from tests.scripted_model import Killed, ScriptedModel
from vibelite.pipeline import run_pipeline
from vibelite.recipe.load import load_recipe
from vibelite.run_dir import read_json, read_jsonl
from vibelite.stages.probe import choose_specialist, mean_pass_at_k

pytestmark = pytest.mark.usefixtures("one_thread")


def rows_of(name: str, subdomain: str, outcomes: list[int]) -> list[dict[str, Any]]:
    row = {"problem_id": name, "subdomain": subdomain}
    return [row | {"correct": bool(outcome)} for outcome in outcomes]


def enumerated(outcomes: list[int], k: int) -> float:
    return fmean(any(chosen) for chosen in combinations(outcomes, k))


def test_pass_at_k_of_a_subdomain_is_the_mean_over_its_problems():
    rows = [
        *rows_of("a", "algebra", [1, 0, 0, 0]),
        *rows_of("b", "algebra", [1, 1, 1, 0]),
        *rows_of("c", "number", [0, 0, 0, 0]),
    ]
    expected = fmean([enumerated([1, 0, 0, 0], 2), enumerated([1, 1, 1, 0], 2)])
    assert mean_pass_at_k(rows, 2) == pytest.approx({"algebra": expected, "number": 0.0})
    assert mean_pass_at_k(rows, 1)["algebra"] == pytest.approx(0.5)


def make_score(step, pass_at_k, pass_at_1):
    return {"step": step, "pass_at_k": {"algebra": pass_at_k}, "pass_at_1": {"algebra": pass_at_1}}


@pytest.mark.parametrize(
    ("scores", "winner"),
    [
        ([(1, 0.5, 0.9), (2, 0.6, 0.1), (3, 0.4, 0.9)], 2),
        ([(1, 0.6, 0.2), (2, 0.6, 0.3), (3, 0.5, 0.9)], 2),
        ([(1, 0.6, 0.3), (2, 0.6, 0.3), (3, 0.6, 0.1)], 2),
    ],
    ids=["best Pass@k", "tie goes to Pass@1", "then to the later step"],
)
def test_the_specialist_is_the_argmax(scores, winner):
    assert choose_specialist([make_score(*score) for score in scores], "algebra") == winner


RECIPE = """\
name: probed
model: {source: tiny, hidden_size: 16, num_layers: 1, num_heads: 2, mlp_size: 16, vocab_size: 300}
data:
  problems:
    probe: {source: file, path: problems.jsonl, verifier: exact, columns: {subdomain: area}}
    other: {source: file, path: problems.jsonl, verifier: exact}
  traces: {traces: {source: file, path: traces.jsonl}}
stages:
  - {kind: sft, num_steps: 3, sequences_per_step: 2, checkpoint_every: 1, optimizer: {lr: 1e-2}}
  - {kind: probe, num_samples: 4, k: 2, sampling: {max_new_tokens: 8}}
  - kind: evaluate
    models: [base, sft]
    benchmarks: [probe, other]
    num_samples: 4
    k: [2]
    sampling: {max_new_tokens: 8}
"""
AREAS = ["algebra", "number"]
NUM_PROBLEMS, NUM_SAMPLES, NUM_CHECKPOINTS = 6, 4, 3


class Coins(ScriptedModel):
    """Whether a completion is right depends by chance on weights, question, sample and seed."""

    def __init__(self) -> None:
        super().__init__(self.toss)
        self.outcomes: dict[int, dict[tuple[str, int], int]] = {}
        """By call of the engine."""

    def toss(self, question: str, sample: int) -> str:
        weight, seed = self.policy.head.weight[0, 0].item(), self.seeds[-1]
        is_right = int(random.Random(f"{weight} {question} {sample} {seed}").random() < 0.4)
        self.outcomes.setdefault(len(self.seeds), {})[question, sample] = is_right
        return f"\\boxed{{{is_right}}}"


@pytest.fixture
def coins(monkeypatch: pytest.MonkeyPatch) -> Coins:
    model = Coins()
    model.play(monkeypatch)
    return model


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    problems = [
        {"prompt": f"Is {n} so?", "answer": "1", "area": AREAS[n % 2]} for n in range(NUM_PROBLEMS)
    ]
    talk = [{"role": "user", "content": "Is it so?"}, {"role": "assistant", "content": "It is."}]
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, problems)))
    (tmp_path / "traces.jsonl").write_text(json.dumps({"messages": talk}))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def run(recipe_path: Path, name: str = "run", until: str | None = "probe") -> Path:
    run_dir = recipe_path.parent / name
    recipe = load_recipe(recipe_path, [])
    run_pipeline(recipe, recipe_path=recipe_path, run_dir=run_dir, until=until)
    return run_dir / "stages" / "01-probe"


def test_specialists_are_chosen_by_pass_at_k_of_samples_with_one_seed(
    coins: Coins, recipe_path: Path
) -> None:
    stage = run(recipe_path)
    found = read_json(stage / "probe.json")
    assert len(coins.outcomes) == NUM_CHECKPOINTS
    assert len(set(coins.seeds)) == 1
    scores: dict[str, list[float]] = {area: [] for area in AREAS}
    for row, outcomes in zip(found["checkpoints"], coins.outcomes.values(), strict=True):
        for number, area in enumerate(AREAS):
            of_problems = [
                [right for (asked, _), right in outcomes.items() if f"Is {place} so?" in asked]
                for place in range(number, NUM_PROBLEMS, 2)
            ]
            scores[area].append(fmean(enumerated(each, 2) for each in of_problems))
            assert row["pass_at_k"][area] == pytest.approx(scores[area][-1])
            assert row["pass_at_1"][area] == pytest.approx(fmean(map(fmean, of_problems)))
            assert row["pass_at_k"][area] > row["pass_at_1"][area], "the case must tell them apart"
    for area, step in found["specialists"].items():
        assert scores[area][step - 1] == max(scores[area])
    assert len(list(read_jsonl(stage / "samples.jsonl"))) == coins.asked


@pytest.mark.parametrize("kill_at", [5, 24, 30, 71])
def test_a_killed_probing_draws_only_what_is_missing_and_ends_the_same(
    kill_at: int, coins: Coins, recipe_path: Path
) -> None:
    coins.kill_after = kill_at
    with pytest.raises(Killed):
        run(recipe_path, "killed")
    coins.kill_after = None
    resumed = run(recipe_path, "killed")
    assert coins.asked == NUM_CHECKPOINTS * NUM_PROBLEMS * NUM_SAMPLES
    whole = run(recipe_path, "whole")
    files = sorted(str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file())
    assert files == sorted(str(p.relative_to(resumed)) for p in resumed.rglob("*") if p.is_file())
    for name in files:
        assert (resumed / name).read_bytes() == (whole / name).read_bytes(), name


def test_an_evaluation_asks_all_models_with_the_seed_of_the_benchmark(
    coins: Coins, recipe_path: Path
) -> None:
    run(recipe_path, until=None)
    assert len(set(map(id, coins.engines))) == 1, "probing and evaluation are of equal settings"
    # base on both benchmarks, then the last checkpoint on both.
    first, second, third, fourth = coins.seeds[NUM_CHECKPOINTS:]
    assert (first, second) == (third, fourth)
    assert first != second

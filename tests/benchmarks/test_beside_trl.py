"""Our side of the comparison with TRL on a tiny model, TRL's rewards, and the report on both."""

import json

import pytest

from benchmarks import beside_trl
from benchmarks.beside_trl import SIDES, evaluate, report, train
from benchmarks.beside_trl_grpo import Rewards
from tests.integration.test_pipeline import RECIPE
from vibelite.recipe.load import load_recipe
from vibelite.recipe.schema import Recipe
from vibelite.rewards.pool import VerifierPool
from vibelite.telemetry.ledger import run_cost
from vibelite.types import Problem

pytestmark = pytest.mark.usefixtures("one_thread")


def test_ours_has_a_point_a_kept_step_and_its_evaluation(nano_run, tmp_path):
    overrides = ["stages.mgpo.num_steps=3", "stages.mgpo.keep_every=2", "cost.usd_per_hour=36"]
    values = load_recipe(RECIPE, overrides).model_dump(mode="json")
    values["model"] = {"source": "pretrained", "path": str(nano_run / "base")}
    values["stages"] = [s for s in values["stages"] if s["kind"] in ("mgpo", "evaluate")]
    values["stages"][0]["start_from"] = "base"
    values["stages"][1]["models"] = ["base"]
    values["data"]["traces"] = {}
    recipe = Recipe.model_validate(values)
    train("vibelite", recipe, tmp_path)
    evaluate(recipe, tmp_path)
    rows = json.loads((tmp_path / "evaluated.json").read_text())
    assert [row["step"] for row in rows] == [0, 2, 3]
    assert 0 == rows[0]["seconds"] < rows[1]["seconds"] < rows[2]["seconds"]
    assert rows[2]["seconds"] <= run_cost(tmp_path / "run" / "ledger")[0]
    for row in rows:
        assert row["usd"] == pytest.approx(row["seconds"] / 100, abs=1e-6)
        shares = [count / row["num_samples"] for count in row["correct"]]
        assert row["pass_at_1"] == pytest.approx(sum(shares) / len(shares))


def test_trl_is_paid_by_our_verdicts_and_not_for_what_was_cut_off():
    problems = [
        Problem(str(answer), "all", ({"role": "user", "content": ""},), str(answer), "math")
        for answer in (4, 9)
    ]
    texts = ["\\boxed{4}", "\\boxed{4}", "\\boxed{9}", "\\boxed{9}"]
    with VerifierPool(num_workers=1) as pool:
        rewards = Rewards(problems, 7, pool)(
            [[{"role": "assistant", "content": text}] for text in texts],
            [[1, 7], [1, 7], [1, 7], [1, 2]],
            [0, 1, 1, 1],
        )
    assert rewards == [1.0, 0.0, 1.0, 0.0]


def test_the_report_has_every_seed_the_means_and_who_failed(tmp_path, capsys):
    def result(side: str, seed: int, share: float) -> dict:
        points = [
            {"step": 0, "seconds": 0.0, "usd": 0.0, "pass_at_1": 0.1, "pass_at_1_ci": [0.0, 0.2]},
            {"step": 9, "seconds": 90.0, "usd": 0.075, "pass_at_1": share,
             "pass_at_1_ci": [share - 0.1, share + 0.1]},
        ]  # fmt: skip
        return {"side": side, "seed": seed, "points": points}

    results = [result(side, seed, 0.4 + seed / 10) for side in SIDES for seed in (0, 1)]
    results.append({"side": "trl", "seed": 2, "points": [], "failed": "train: exit code 1\nwords"})
    files = []
    for number, one in enumerate(results):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(one))
    report(files, tmp_path / "beside.json")
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "vibelite 1 9 90 0.075 50.0 40.0 to 60.0" in lines
    assert "vibelite mean of 2 9 90 0.075 45.0" in lines
    assert "trl, seed 2: train: exit code 1" in lines
    assert json.loads((tmp_path / "beside.json").read_text())["runs"] == results


def test_a_seed_keeps_a_point_every_so_many_steps_and_the_last():
    def steps(*overrides: str) -> list[int]:
        stage = beside_trl.mgpo_stage(load_recipe(beside_trl.RECIPE, overrides))
        return beside_trl.kept_steps(stage)

    assert steps() == [20, 40]
    assert steps("stages.mgpo.keep_every=0") == [40]
    assert steps("stages.mgpo.num_steps=50") == [20, 40, 50]

"""The ablations: equal budgets, a run of a few thousand parameters, and the paired statistics by
hand.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import ablation_runs, ablation_table, ablations
from benchmarks.ablation_runs import VARIANTS, best_checkpoint, variant_recipe
from vibelite.recipe.load import load_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

NANO = Path(__file__).parent.parent / "integration" / "nano.yaml"
MAX_TOKENS = 10


def row(model: str, seed: int, correct: list[int], **more) -> dict:
    """Of 8 samples a problem, of 4 tokens each where nothing else is said."""
    tokens = {"tokens": [32] * len(correct), "usd": 0.0, "seconds": 1.0}
    return {"model": model, "seed": seed, "num_samples": 8, "correct": correct, **tokens, **more}


def test_variants_differ_from_the_full_one_in_their_changes_alone():
    recipe = load_recipe(NANO)
    full = variant_recipe(recipe, VARIANTS[0], Path("start"), num_steps=3)
    for variant in VARIANTS:
        other = variant_recipe(recipe, variant, Path("start"), num_steps=3)
        before, after = (r.stages[0].model_dump() for r in (full, other))
        different = {key for key in before if before[key] != after[key]}
        assert different == set(variant.changes) | ({"name"} if variant.start == "full" else set())
        assert (other.seed, other.model, other.data) == (full.seed, full.model, full.data)


def test_the_best_checkpoint_has_the_highest_mean_over_subdomains():
    def score(step: int, k: tuple[float, float], first: tuple[float, float]) -> dict:
        values = {"pass_at_k": dict(zip("ab", k, strict=True))}
        values |= {"pass_at_1": dict(zip("ab", first, strict=True))}
        return {"step": step, "path": f"step-{step}", **values}

    # The first has the best single sub-domain, the last two tie in Pass@K.
    scores = [score(1, (0.9, 0.1), (0.9, 0.1)), score(2, (0.6, 0.6), (0.2, 0.3))]
    assert best_checkpoint([*scores, score(3, (0.6, 0.6), (0.2, 0.2))]) == "step-2"


def test_a_difference_is_over_the_pairs_of_problems_and_over_seeds():
    rows = [
        row("a", 0, [8, 4]),
        row("b", 0, [4, 4]),  # +0.5, 0: mean 0.25
        row("a", 1, [8, 8]),
        row("b", 1, [4, 2]),  # +0.5, +0.75: mean 0.625
        row("a", 2, [0, 0]),  # no control: not a pair
    ]
    pairs = ablation_table.paired_rows(rows, "a", "b")
    assert [(a["seed"], b["seed"]) for a, b in pairs] == [(0, 0), (1, 1)]
    found = ablation_table.difference(pairs, "pass_at_1", MAX_TOKENS)
    assert found.mean == pytest.approx(0.4375)
    assert found.by_seed == pytest.approx((0.25, 0.625))
    # Standard deviation of 0.25 and 0.625 over sqrt(2) is 0.1875; t with one degree 12.706.
    assert found.over_seeds == pytest.approx((0.4375 - 12.706 * 0.1875, 0.4375 + 12.706 * 0.1875))
    assert 0 <= found.low < 0.4375 < found.high <= 0.75
    eighth = ablation_table.difference(pairs, "pass_at_8", MAX_TOKENS)
    assert (eighth.mean, eighth.excludes_zero) == (0.0, False)


def test_the_bar_is_higher_over_seeds_than_over_problems():
    many = [4, 5] * 40

    def verdict(*gains: int) -> str:
        """Of models that solve so many of 8 more, a number a seed."""
        pairs = [
            (row("a", seed, [count + gain for count in many]), row("b", seed, many))
            for seed, gain in enumerate(gains)
        ]
        return ablation_table.verdict(ablation_table.difference(pairs, "pass_at_1", MAX_TOKENS))

    assert verdict(2, 2, 3) == "yes"
    # Clear over 240 problems, not over 3 seeds.
    assert verdict(2, 0, 0) == "over problems, not over seeds"
    assert verdict(2) == "over problems, one seed"


def test_a_point_has_a_price_only_where_it_is_distinguishable():
    weak, strong = [2, 3] * 40, [4, 5] * 40  # 25 points apart

    def price(a: list[int], b: list[int], usd: float) -> str:
        pairs = [(row("a", 0, a, usd=usd), row("b", 0, b, usd=0.1))]
        gain = ablation_table.difference(pairs, "pass_at_1", MAX_TOKENS)
        return ablation_table.usd_per_point(pairs, gain)

    assert price(strong, weak, 0.35) == "0.010000"
    assert price(strong, weak, 0.1) == "nothing more"
    assert price(weak, strong, 0.35) == "a loss"
    assert price(weak, weak, 0.35) == "not distinguishable"


def test_the_tables_say_whether_long2short_shortened_at_unchanged_pass_at_1():
    same = [2, 6] * 40
    rows = [row("last", 0, same), row("longer", 0, same), row("long2short", 0, same)]
    rows[2]["tokens"] = [24, 16] * 40  # 2.5 in place of 4 tokens a sample
    text = ablation_table.tables(rows, max_tokens=MAX_TOKENS)
    assert "**-1.5 [-1.6, -1.4]** | no | not distinguishable |" in text
    assert "GRPO" not in text, "a claim without rows"


def nano_rows(directory: Path, variants: str, *arguments: str) -> dict[str, dict]:
    """The rows of these variants of nano.yaml by the names of their models."""
    out = directory / "out.json"
    ablations.main(
        ["--recipe", str(NANO), "--run-dir", str(directory / "runs"), "--output", str(out)]
        + ["--set", "stages.evaluate.num_samples=8", "--variants", *variants.split(), *arguments]
    )
    return {made["model"]: made for made in json.loads(out.read_text())["rows"]}


def test_nano_models_go_through_every_kind_of_start(tmp_path, monkeypatch, capsys):
    trained = ("full", "grpo", "no-probing", "best-single")
    variants = " ".join([*trained, "long2short"])
    arguments = (tmp_path, variants, "--seeds", "3", "--steps", "2", "--second-steps", "1")
    rows = nano_rows(*arguments)
    assert list(rows) == [
        *("last", "fused", "tail-average", "full", "grpo", "no-probing"),
        *("best", "best-single", "long2short"),
    ]
    assert {made["seed"] for made in rows.values()} == {3}
    assert {rows[name]["rl_completions"] for name in trained} == {2 * 4 * 4}
    assert rows["long2short"]["rl_completions"] == 1 * 4 * 4
    assert rows["long2short"]["seconds"] > rows["full"]["seconds"] > rows["fused"]["seconds"]
    assert all(len(made["correct"]) == 8 and made["num_samples"] == 8 for made in rows.values())
    assert all(sum(made["tokens"]) > 8 * 8 for made in rows.values())
    printed = capsys.readouterr().out
    assert (tmp_path / "out.md").read_text() in printed

    def refuse(*_):
        raise AssertionError("ran what had a row")

    monkeypatch.setattr(ablation_runs, "run_pipeline", refuse)
    nano_rows(*arguments)
    assert capsys.readouterr().out in printed
    with pytest.raises(SystemExit, match="other settings"):
        nano_rows(*arguments, "--steps", "1")


def test_the_best_checkpoint_is_evaluated_and_trained_where_it_is_not_the_last(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(ablation_runs, "best_checkpoint", lambda _: "step-000002")
    rows = nano_rows(tmp_path, "best-single", "--seeds", "0", "--steps", "1")
    assert list(rows) == ["last", "fused", "tail-average", "best", "best-single"]
    assert rows["best"]["tokens"] != rows["last"]["tokens"]
    start = (tmp_path / "runs" / "seed-0" / "best-single.yaml").read_text()
    assert "step-000002" in start and "step-000006" not in start
    assert rows["best-single"]["seconds"] > rows["best"]["seconds"] > rows["last"]["seconds"]


def test_seeds_that_ran_one_by_one_are_merged_and_mixed_settings_refused():
    reports = [{"settings": 1, "rows": [row("full", seed, [1])]} for seed in (1, 0)]
    assert [one["seed"] for one in ablation_table.merged_rows(reports)] == [0, 1]
    with pytest.raises(SystemExit, match="two of the outputs"):
        ablation_table.merged_rows([reports[0], reports[0]])
    with pytest.raises(SystemExit, match="different settings"):
        ablation_table.merged_rows([reports[0], reports[1] | {"settings": 2}])

"""`vibelite samples`: a run's completions in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vibelite.commands.options import AsJson, print_json, require_runs
from vibelite.errors import RecipeError


def samples(
    run_dir: Annotated[Path, typer.Argument(help="A run directory.")],
    stage: Annotated[str, typer.Option(help="The stage; default: the last that sampled.")] = "",
    step: Annotated[
        int | None, typer.Option(help="The step; default: the last that was made.")
    ] = None,
    key: Annotated[
        str, typer.Option(help="Of an evaluation: BENCHMARK--MODEL; default: the last.")
    ] = "",
    subdomain: Annotated[str, typer.Option(help="Only of this sub-domain.")] = "",
    only: Annotated[
        Literal["all", "correct", "wrong", "unverifiable"], typer.Option(help="By verdict.")
    ] = "all",
    limit: Annotated[int, typer.Option(min=1, help="Show at most N.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Show completions of a run with their verdicts.

    vibelite samples runs/quickstart --stage mgpo --step 10 --only wrong
    """
    from vibelite.recipe.suggest import did_you_mean
    from vibelite.report.headline import headline
    from vibelite.report.run_data import load_stages, model_keys
    from vibelite.run_dir import read_jsonl

    require_runs([run_dir])
    state = headline(run_dir)
    if not as_json:
        print(f"{state}\n")
    keys = model_keys(run_dir)
    recipe = (run_dir / "recipe.resolved.yaml").read_text(encoding="utf-8")
    stages = {one.name: one for one in load_stages(run_dir, recipe, keys)}
    with_samples = [name for name, one in stages.items() if one.num_samples]
    if not with_samples:
        raise RecipeError(f"{run_dir}: no stage has sampled anything yet")
    if stage and stage not in with_samples:
        raise RecipeError(
            f"--stage {stage}: it has no samples{did_you_mean(stage, with_samples)}; "
            f"those that have: {', '.join(with_samples)}"
        )
    chosen = stages[stage or with_samples[-1]]
    (path,) = run_dir.glob(f"stages/[0-9]*-{chosen.name}/samples.jsonl")
    if key:
        benchmark, _, model = key.rpartition("--")
        key = f"{benchmark}--{keys.get(model, model)}"
    wanted = {"step": step, "key": key or None}
    if step is None and not key:
        wanted = {name: chosen.samples[-1].get(name) for name in wanted}
    wanted = {k: v for k, v in (wanted | {"subdomain": subdomain or None}).items() if v is not None}
    rows = list(islice(matching(read_jsonl(path), wanted, only), limit))
    if as_json:
        print_json({"state": asdict(state.state), "stage": chosen.name, "samples": rows})
        return
    for row in rows:
        print(describe(row))
    if not rows:
        asked = ", ".join(f"{name} {value}" for name, value in wanted.items())
        kind = "sample" if only == "all" else f"{only} sample"
        raise RecipeError(f"{path}: no {kind} of {asked}")


def matching(
    rows: Iterable[dict[str, Any]], wanted: dict[str, Any], only: str
) -> Iterator[dict[str, Any]]:
    """The rows that have these values and this verdict."""
    verdicts = {"correct": True, "wrong": False, "unverifiable": None}
    for row in rows:
        has_verdict = only == "all" or row.get("correct") is verdicts[only]
        if has_verdict and all(row.get(key) == value for key, value in wanted.items()):
            yield row


def describe(row: dict[str, Any]) -> str:
    """One sample as text for a terminal; what a model wrote cannot command it."""
    from vibelite.report.texts import printable

    verdict = {True: "correct", False: "wrong", None: "unverifiable"}[row.get("correct")]
    facts = [f"{key} {row[key]}" for key in ("step", "key", "subdomain") if row.get(key)]
    facts += [f"problem {row['problem_id']}", verdict, f"reward {row['reward']:g}"]
    if "advantage" in row:
        facts.append(f"advantage {row['advantage']:+.3f}")
    facts.append(f"{row['num_tokens']} tokens, {row['finish_reason']}")
    rule = "-" * 80
    parts = [rule, " | ".join(facts), rule, row["prompt"], "", row["completion"]]
    if row.get("expected"):
        parts += ["", f"expected: {row['expected']}"]
    if row.get("detail"):
        parts += ["", f"verifier: {row['detail']}"]
    return "\n".join(printable(part) for part in parts) + "\n"

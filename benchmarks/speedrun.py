"""How long and for how many dollars a finished run took to reach a goal: from its first process to
the end of the evaluation that shows it, everything included (start, models, states, evaluation).

    vibelite run recipes/speedrun_0p5b.yaml --run-dir RUN
    python -m benchmarks.speedrun RUN [--goal 0.60 --low 0.55] [--out FILE.json]

The goal is met by the first evaluated model with Pass@1 of at least `--goal` and a 95% interval
over problems that begins above `--low`. Exit code 1 where no model meets it. The records are in
docs/speedrun.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from vibelite.errors import RecipeError
from vibelite.report.run_data import model_keys
from vibelite.report.summary import collect_results
from vibelite.run_dir import read_json, write_text_atomic
from vibelite.tables import format_table
from vibelite.telemetry.ledger import known_sum, read_ledger
from vibelite.units import NANOSECONDS


def evaluated(run_dir: Path, goal: float, low: float) -> list[dict[str, Any]]:
    """A row per evaluated model, in the order of their evaluations: seconds and USD from the start
    of the run to the end of its evaluation (USD None without a price), and whether it is at the
    goal. RecipeError where nothing was evaluated.
    """
    keys = model_keys(run_dir)
    results = {
        f"{row['benchmark']}--{keys[row['stage']]}": row
        for row in collect_results(run_dir)
        if row["stage"] in keys
    }
    rows, paid = [], []
    for entry in read_ledger(run_dir / "ledger"):
        paid.append(entry)
        row = results.get(entry.details.get("model", "")) if entry.what == "evaluate" else None
        if row is None:
            continue
        usd = known_sum(one.usd for one in paid)
        rows.append({
            "model": row["stage"],
            "seconds": sum(one.wall_nanoseconds for one in paid) / NANOSECONDS,
            "usd": None if usd is None else float(usd),
            **{key: row[key] for key in ("num_problems", "pass_at_1", "pass_at_1_ci")},
            "is_at_goal": row["pass_at_1"] >= goal and row["pass_at_1_ci"][0] > low,
        })  # fmt: skip
    if not rows:
        raise RecipeError(f"{run_dir}: no finished evaluation; finish the run, then ask again")
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    header = ["model", "seconds", "$", "Pass@1 %", "95%", "at the goal"]
    cells = [
        [
            row["model"],
            f"{row['seconds']:.0f}",
            "" if row["usd"] is None else f"{row['usd']:.2f}",
            f"{100 * row['pass_at_1']:.1f}",
            " to ".join(f"{100 * end:.1f}" for end in row["pass_at_1_ci"]),
            "yes" if row["is_at_goal"] else "no",
        ]
        for row in rows
    ]
    return format_table(header, cells)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--goal", type=float, default=0.60)
    parser.add_argument("--low", type=float, default=0.55)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(argv)
    try:
        rows = evaluated(arguments.run_dir, arguments.goal, arguments.low)
    except RecipeError as error:
        parser.error(str(error))
    print(table(rows))
    record = next((row for row in rows if row["is_at_goal"]), None)
    if arguments.out:
        manifest = read_json(arguments.run_dir / "manifest.json")
        report = {"record": record, "goal": arguments.goal, "low": arguments.low, "models": rows}
        write_text_atomic(
            arguments.out, json.dumps(report | {"manifest": manifest}, indent=1) + "\n"
        )
    return int(record is None)


if __name__ == "__main__":
    sys.exit(main())

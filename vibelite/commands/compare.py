"""`vibelite compare`: several runs in one report, and which differences are real."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vibelite.errors import RecipeError


def compare(
    run_dirs: Annotated[
        list[Path], typer.Argument(help="Run directories; the first is the one compared with.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the report of all of them.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Differences of Pass@1 on the same problems, with paired 95% intervals.

    vibelite compare runs/grpo runs/mgpo -o compare.html

    The report draws the curves of all runs at equal step, equal tokens and equal cost.
    """
    from vibelite.report.build import unique_names, write_report
    from vibelite.report.compare import HEADER, compare_runs, difference_cells
    from vibelite.tables import format_table

    if len(run_dirs) < 2:
        raise RecipeError("compare needs two run directories or more")
    for run_dir in run_dirs:
        if not (run_dir / "recipe.resolved.yaml").is_file():
            raise RecipeError(f"{run_dir}: not a run directory (no recipe.resolved.yaml)")
    names = unique_names([path.resolve().name for path in run_dirs])
    differences = compare_runs(dict(zip(names, run_dirs, strict=True)))
    if output is not None:
        write_report(run_dirs, output)
    if as_json:
        rows = [asdict(one) for one in differences]
        sys.stdout.write(json.dumps({"differences": rows}, indent=1) + "\n")
        return
    if differences:
        print(format_table(HEADER, difference_cells(differences)))
    else:
        print("no model of the same name was evaluated on the same problems in these runs")
    if output is not None:
        print(output)

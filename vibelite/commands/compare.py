"""`vibelite compare`: several runs in one report, and which differences are real."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from vibelite.commands.options import AsJson, ReportPath, RunDirs, print_json, require_runs
from vibelite.errors import RecipeError

if TYPE_CHECKING:
    from vibelite.report.compare import Difference


def compare(run_dirs: RunDirs, output: ReportPath = None, as_json: AsJson = False) -> None:
    """Differences of Pass@1 on the same problems, with paired 95% intervals.

    vibelite compare runs/grpo runs/mgpo -o compare.html

    The report draws the curves of all runs over steps, tokens, minutes or USD.
    """
    if len(run_dirs) < 2:
        raise RecipeError("compare needs two run directories or more")
    require_runs(run_dirs)
    from vibelite.report.build import unique_names, write_report
    from vibelite.report.compare import compare_runs

    names = unique_names([path.resolve().name for path in run_dirs])
    differences = compare_runs(dict(zip(names, run_dirs, strict=True)))
    if output is not None:
        write_report(run_dirs, output)
    if as_json:
        print_json({"differences": [asdict(one) for one in differences]})
        return
    print_differences(differences)
    if output is not None:
        print(output)


def print_differences(differences: Sequence[Difference]) -> None:
    """A table of the differences, or why there is none."""
    from vibelite.report.compare import HEADER, difference_cells
    from vibelite.tables import format_table

    if differences:
        print(format_table(HEADER, difference_cells(differences)))
    else:
        print("no model of the same name was evaluated on the same problems in these runs")

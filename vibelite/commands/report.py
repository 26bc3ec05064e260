"""`vibelite report`: one page about one or several runs."""

from __future__ import annotations

import sys

from vibelite.commands.options import ReportPath, RunDirs, require_runs


def report(run_dirs: RunDirs, output: ReportPath = None) -> None:
    """One self-contained HTML page about one or several runs; default: report.html in the first.

    vibelite report runs/mine -o mine.html
    """
    require_runs(run_dirs)
    from vibelite.report.build import write_report
    from vibelite.report.headline import headline

    for run_dir in run_dirs:
        print(f"{run_dir}: {headline(run_dir)}", file=sys.stderr)
    print(write_report(run_dirs, output or run_dirs[0] / "report.html"))

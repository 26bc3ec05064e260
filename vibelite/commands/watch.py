"""`vibelite watch`: the report of a run while it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vibelite.commands.options import RunDirs, require_runs
from vibelite.tables import format_table
from vibelite.telemetry.ledger import run_cost
from vibelite.telemetry.run_state import ago
from vibelite.units import usd


def watch(
    run_dirs: RunDirs,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0 takes a free one.")
    ] = 8700,
) -> None:
    """Serve the live report on this machine until Ctrl-C; of a directory of runs, list them.

    vibelite watch runs/quickstart; vibelite watch runs

    From another machine: ssh -L 8700:127.0.0.1:8700 HOST, then open http://127.0.0.1:8700/
    """
    from vibelite.report.headline import headline
    from vibelite.report.server import HOST, LiveReport, make_server

    if len(run_dirs) == 1 and (runs := runs_in(run_dirs[0])):
        header = ("run", "state", "last step", "reward", "cost")
        print(format_table(header, [run_cells(run) for run in runs]))
        return
    require_runs(run_dirs)

    for run_dir in run_dirs:
        print(f"{run_dir}: {headline(run_dir)}")
    with make_server(LiveReport(run_dirs), port) as server:
        print(f"http://{HOST}:{server.server_address[1]}/  (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended; the run goes on")


def runs_in(directory: Path) -> list[Path]:
    """The runs that lie in a directory, if it is none itself."""
    if (directory / "recipe.resolved.yaml").exists():
        return []
    return sorted(path.parent for path in directory.glob("*/recipe.resolved.yaml"))


def run_cells(run_dir: Path) -> list[str]:
    """Name, state, age of the last step, reward and cost."""
    from vibelite.report.headline import headline

    head, (_, spent) = headline(run_dir), run_cost(run_dir / "ledger")
    reward = "-" if head.reward is None else f"{head.reward:.3f}"
    return [run_dir.name, head.title, ago(head.last_step_utc) or "-", reward, usd(spent)]

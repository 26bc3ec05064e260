"""`vibelite watch`: the report of a run while it goes on."""

from __future__ import annotations

from typing import Annotated

import typer

from vibelite.commands.options import RunDirs, require_runs


def watch(
    run_dirs: RunDirs,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0 takes a free one.")
    ] = 8700,
) -> None:
    """Serve the live report on this machine until Ctrl-C.

    vibelite watch runs/quickstart

    From another machine: ssh -L 8700:127.0.0.1:8700 HOST, then open http://127.0.0.1:8700/
    """
    require_runs(run_dirs)
    from vibelite.report.headline import headline
    from vibelite.report.server import HOST, LiveReport, make_server

    for run_dir in run_dirs:
        print(f"{run_dir}: {headline(run_dir)}")
    with make_server(LiveReport(run_dirs), port) as server:
        print(f"http://{HOST}:{server.server_address[1]}/  (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended; the run goes on")

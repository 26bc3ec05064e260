"""The command line: the list of commands, and what errors and signals mean to a shell.

Each command is one file under commands/ or tools/, which imports what it needs when it runs:
`--help` and the check of a recipe load no torch. With `--json` stdout holds one JSON object and
nothing else; everything else goes to stderr.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from functools import partial
from typing import Annotated

import typer
from typer.exceptions import TyperException

from vibelite import __version__
from vibelite.commands.chat import chat
from vibelite.commands.compare import compare
from vibelite.commands.doctor import doctor
from vibelite.commands.eval import evaluate
from vibelite.commands.export import export
from vibelite.commands.fuse import fuse
from vibelite.commands.options import print_json
from vibelite.commands.plan import plan
from vibelite.commands.probe import probe
from vibelite.commands.report import report
from vibelite.commands.run import run
from vibelite.commands.samples import samples
from vibelite.commands.schema import schema
from vibelite.commands.verify import verify
from vibelite.commands.watch import watch
from vibelite.errors import VibeLiteError
from vibelite.tools.build_probe import build_probe
from vibelite.tools.decontaminate import decontaminate
from vibelite.tools.init import init
from vibelite.tools.replicate import replicate
from vibelite.tools.sweep import sweep

app = typer.Typer(
    name="vibelite",
    help="Trains a small reasoning model with the VibeThinker recipe on one machine.",
    epilog="Example: vibelite run recipes/quickstart.yaml",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# In the order of --help.
COMMANDS = {
    "init": init,
    "plan": plan,
    "run": run,
    "watch": watch,
    "report": report,
    "samples": samples,
    "chat": chat,
    "compare": compare,
    "sweep": sweep,
    "replicate": replicate,
    "eval": evaluate,
    "probe": probe,
    "fuse": fuse,
    "export": export,
    "verify": verify,
    "decontaminate": decontaminate,
    "build-probe": build_probe,
    "doctor": doctor,
    "schema": schema,
}
# Of the library's messages about values.
WORDS = {"Value error, ": "", "Input should be": "must be"}
for name, command in COMMANDS.items():
    app.command(name)(command)


def main() -> None:
    """The entry point: turns errors that a user can act on into a message and an exit code."""
    # With torch loaded the interpreter looks for garbage for a second before it ends, unpaid for in
    # any ledger; with nothing to look through it ends in 0.15 s.
    atexit.register(gc.freeze)
    try:
        code = app(prog_name="vibelite", standalone_mode=False)
    except VibeLiteError as error:
        if error.printed_by_leader:
            sys.exit(0)  # the leader says it, and ends with its exit code
        print(error, file=sys.stderr)
        code = _told(str(error), error.exit_code)
    except TyperException as error:
        for technical, plain in WORDS.items():
            error.message = error.message.replace(technical, plain)
        getattr(error, "show", partial(print, error, file=sys.stderr))()
        code = _told(error.format_message(), error.exit_code)
    sys.exit(code or 0)


def _told(message: str, code: int) -> int:
    """Prints a message once more where stdout was to hold a JSON object."""
    if "--json" in sys.argv:
        print_json({"error": message, "exit_code": code})
    return code


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"vibelite {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    # Progress bars of libraries would tear the one-line-per-step log.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

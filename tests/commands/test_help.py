"""What --help says: every command has an example, and the examples are commands that exist."""

import os
import re
import shlex
import subprocess
import sys

import pytest
import typer.main

from vibelite.cli import app

GROUP = typer.main.get_command(app)
COMMANDS = GROUP.commands  # pyright: ignore[reportAttributeAccessIssue]


def examples(command):
    """The example lines of a command's help, without what a shell would do with their output."""
    texts = [command.epilog or "", *(command.help or "").split("\n\n")]
    joined = [" ".join(text.split()).removeprefix("Example: ") for text in texts]
    return [text.split(" > ")[0] for text in joined if text.startswith("vibelite ")]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_its_parser_accepts(name):
    command = COMMANDS[name]
    assert examples(command), f"vibelite {name} --help shows no example"
    for example in examples(command):
        program, called, *arguments = shlex.split(example)
        assert (program, called) == ("vibelite", name)
        command.make_context(called, arguments)  # raises for an unknown option or a wrong value


@pytest.mark.parametrize("name", [None, "run", "samples"])
def test_help_shows_the_example(name):
    command = [sys.executable, "-m", "vibelite", *([name] if name else []), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(rf"vibelite {name or 'run'} \w", " ".join(shown.split()))


@pytest.mark.parametrize(
    ("shell", "typed", "offered"),
    [("bash", "vibelite sam", "samples"), ("bash", "vibelite run --bud", "--budget-usd")],
)
def test_a_shell_completes_commands_and_options(shell, typed, offered):
    asked = {
        "_VIBELITE_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    command = [sys.executable, "-m", "vibelite"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **asked})
    assert offered in done.stdout.split()

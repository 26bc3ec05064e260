"""The job files of recipes/cloud against this program: its command line, recipes and exit codes.

Whether SkyPilot and dstack accept them is in test_schemas.py.
"""

import re
import shlex
import string
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

import vibelite.pipeline
from vibelite.cli import app
from vibelite.errors import BudgetReached, Interrupted

ROOT = Path(__file__).parents[2]
CLOUD = ROOT / "recipes" / "cloud"


def read(name: str) -> dict[str, Any]:
    return YAML(typ="safe").load((CLOUD / name).read_text(encoding="utf-8"))


def command_of(name: str) -> str:
    """The line that runs VibeLite."""
    job = read(name)
    lines = job["commands"] if "commands" in job else job["run"].splitlines()
    (line,) = (line for line in lines if "vibelite run" in line)
    return line


def environment_of(name: str) -> dict[str, str]:
    job = read(name)
    if "envs" in job:
        return {key: str(value) for key, value in job["envs"].items()}
    return dict(entry.split("=", 1) for entry in job["env"])


def test_both_run_the_same_command():
    assert command_of("sky.yaml") == command_of("dstack.yaml")
    environments = [environment_of(name) for name in ("sky.yaml", "dstack.yaml")]
    assert environments[0].pop("BUCKET")
    assert environments[0] == environments[1]


@pytest.mark.parametrize("name", ["sky.yaml", "dstack.yaml"])
def test_the_command_is_one_that_this_program_takes(name, monkeypatch):
    """It gets as far as running the pipeline, with the recipe, directory and limit meant."""
    called: dict[str, Any] = {}
    monkeypatch.setattr(
        vibelite.pipeline,
        "run_pipeline",
        lambda recipe, **settings: called.update(settings, recipe=recipe),
    )
    monkeypatch.chdir(ROOT)
    environment = environment_of(name)
    line = string.Template(command_of(name)).substitute(environment)
    program, *arguments = shlex.split(line)
    assert program == ".venv/bin/vibelite"
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None, result.output
    assert called["run_dir"] == Path("/runs") / environment["RUN"]
    assert called["recipe"].budget.usd == float(environment["BUDGET_USD"])
    assert called["recipe"].cost.usd_per_hour == float(environment["USD_PER_HOUR"])
    assert called["recipe"].cost.source == environment["PRICE_SOURCE"]


def test_two_nodes_run_the_command_of_one_under_torchrun():
    line = command_of("sky_2_nodes.yaml")
    under, _, run = line.partition(" -m vibelite ")
    assert under.split()[1:3] == ["-m", "torch.distributed.run"]
    assert run.strip() == command_of("sky.yaml").partition("/vibelite ")[2].strip()
    environment = environment_of("sky.yaml")
    environment.pop("BUCKET")
    assert environment_of("sky_2_nodes.yaml").keys() == environment.keys()
    assert read("sky_2_nodes.yaml")["num_nodes"] == 2


def test_a_spent_budget_is_never_started_again_and_an_interruption_is():
    recovery = read("sky.yaml")["resources"]["job_recovery"]
    assert recovery["recover_on_exit_codes"] == [Interrupted.exit_code]
    assert recovery["max_restarts_on_errors"] == 0, "it would count for a spent budget too"
    assert BudgetReached.exit_code not in recovery["recover_on_exit_codes"]
    assert set(read("dstack.yaml")["retry"]["on_events"]) == {"interruption", "no-capacity"}
    # And it finds its run again.
    assert read("sky.yaml")["file_mounts"]["/runs"]["mode"] == "MOUNT_CACHED"
    assert [volume["path"] for volume in read("dstack.yaml")["volumes"]] == ["/runs"]


def test_the_image_is_made_of_files_that_exist_and_runs_as_nobody_special():
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    parsed = [(name, arguments) for name, _, arguments in (line.partition(" ") for line in lines)]
    assert parsed[0][0] == "FROM"
    for arguments in (arguments for name, arguments in parsed if name == "COPY"):
        *sources, _ = (word for word in arguments.split() if not word.startswith("--"))
        assert all((ROOT / source).exists() for source in sources), arguments
    assert dict(parsed)["USER"] not in ("root", "0"), "the last one"
    assert dict(parsed)["ENTRYPOINT"] == '["tini", "--", "/app/.venv/bin/vibelite"]'

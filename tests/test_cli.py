"""The command line as a user meets it: exit codes, stdout and stderr of a fresh process."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recipe.texts import write_recipe
from vibelite import __version__, cli
from vibelite.commands.export import model_of_run
from vibelite.errors import EngineError, RecipeError
from vibelite.tables import probe_table

ROOT = Path(__file__).parent.parent


def vibelite(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vibelite", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


def test_the_installed_script_is_the_same_program():
    script = Path(sys.executable).with_name("vibelite")
    result = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"vibelite {__version__}\n"


def test_the_program_ends_without_a_search_for_garbage():
    program = (
        "import atexit, gc, sys, vibelite.cli as cli\n"
        "atexit.register(lambda: print('frozen', gc.get_freeze_count()))\n"  # after cli's own
        "sys.argv = ['vibelite', '--version']\n"
        "assert gc.get_freeze_count() == 0\n"
        "cli.main()\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0
    assert int(result.stdout.rpartition("frozen ")[2]) > 1000


@pytest.mark.parametrize("arguments", [["--help"], ["run", "recipe.yaml"]])
def test_help_and_the_check_of_a_recipe_load_no_torch(arguments, tmp_path):
    write_recipe(tmp_path, line_2="seed: x")
    program = (
        "import sys, vibelite.cli as cli\n"
        f"sys.argv = ['vibelite', *{arguments!r}]\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)\n"
        "print('light')"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.stdout.endswith("light\n"), result.stderr
    # Processor time, which other programs do not lengthen much: 0.1 and 0.4 s measured.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_a_wrong_recipe_ends_with_code_2_and_one_message_on_stderr(tmp_path):
    path = write_recipe(tmp_path, line_2="sed: 0")
    result = vibelite("run", path, "--set", "stages.mgpo.lr=1")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        "--set stages.mgpo.lr=1: unknown key; did you mean 'optimizer.lr'?\n"
        f"{path}:2:1: sed: unknown key; did you mean 'seed'?\n"
    )


@pytest.fixture
def finished_run(tmp_path):
    """A run with a finished stage that has two models, one that has none, and an export."""
    run = tmp_path / "run"
    for name in ("export", "stages/00-sft/checkpoints/a", "stages/00-sft/checkpoints/b"):
        (run / name).mkdir(parents=True)
        (run / name / "config.json").write_text(json.dumps({"name": name}))
    models = {"first": "checkpoints/a", "sft": "checkpoints/b"}
    (run / "stages/00-sft/status.json").write_text(json.dumps({"models": models}))
    (run / "stages/01-evaluate").mkdir()
    (run / "stages/01-evaluate/status.json").write_text(json.dumps({"models": {}}))
    recipe = "stages: [{name: export, kind: export, start_from: sft}]"
    (run / "recipe.resolved.yaml").write_text(recipe)
    return run


@pytest.mark.parametrize(
    ("stage", "model"), [(None, "export"), ("sft", "stages/00-sft/checkpoints/b")]
)
def test_export_takes_the_final_model_or_that_of_a_stage(stage, model, finished_run):
    """tests/stages/test_export.py exports real ones."""
    found, maker = model_of_run(finished_run, stage)
    assert json.loads((found / "config.json").read_text()) == {"name": model}
    assert maker == "sft"


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("stf", "no finished stage of {run}; did you mean 'sft'?"),
        ("evaluate", "makes no model of its own"),
    ],
)
def test_export_refuses_a_stage_without_model(stage, message, finished_run, tmp_path):
    result = vibelite("export", finished_run, "--to", tmp_path / "out", "--stage", stage)
    assert result.returncode == 2
    assert result.stderr == f"--stage {stage}: {message.format(run=finished_run)}\n"


@pytest.mark.parametrize(("error", "code"), [(RecipeError("wrong"), 2), (EngineError("asleep"), 1)])
def test_the_exit_code_is_that_of_the_error(error, code, monkeypatch, capsys):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    assert capsys.readouterr().err == f"{error}\n"


def test_a_defect_keeps_its_traceback(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_ends_with_code_75(number, tmp_path):
    """The pipeline is replaced by a long sleep, in a process of its own."""
    write_recipe(tmp_path)
    program = (
        "import signal, sys, time, types\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job ignores it
        "pipeline = types.ModuleType('vibelite.pipeline')\n"
        "def run_pipeline(*_, **__):\n"
        "    print('started', flush=True)\n"
        "    time.sleep(60)\n"
        "pipeline.run_pipeline = run_pipeline\n"
        "sys.modules['vibelite.pipeline'] = pipeline\n"
        "sys.argv = ['vibelite', 'run', 'recipe.yaml']\n"
        "from vibelite.cli import main\n"
        "main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 75
    assert errors == "interrupted; the same command goes on in runs/small\n"


def test_the_schema_is_json_on_stdout():
    result = vibelite("schema")
    assert result.returncode == 0
    assert json.loads(result.stdout)["properties"]["name"]["type"] == "string"


def test_the_probe_table_marks_the_specialists():
    scores = [
        {"model": "a", "pass_at_1": {}, "pass_at_k": {"number": 0.5, "sums": 0.25}},
        {"model": "b", "pass_at_1": {}, "pass_at_k": {"number": 0.25, "sums": 0.75}},
    ]
    result = {
        "k": 2,
        "num_samples": 4,
        "models": scores,
        "specialists": {"number": "a", "sums": "b"},
    }
    assert probe_table(result) == (
        "Pass@2 from 4 samples (* = specialist)\n"
        "model  number    sums\n"
        "-----  ------  ------\n"
        "a      0.500*  0.250\n"
        "b      0.250   0.750*"
    )

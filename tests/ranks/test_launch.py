"""How ranks are started and what is said of how they ended; whole runs are in tests/distributed."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.recipe.texts import write_recipe
from vibelite.errors import RecipeError
from vibelite.pipeline import torch_and_ranks
from vibelite.ranks import join, launch
from vibelite.ranks.launch import run_ranks
from vibelite.ranks.ranks import Ranks, is_follower, num_gpus_of, num_nodes
from vibelite.recipe.load import dump_resolved, load_recipe
from vibelite.recipe.run_section import Cost
from vibelite.resume import what_matters
from vibelite.run_dir import RunDir
from vibelite.telemetry.meter import Meter


def script(text: str) -> list[str]:
    return [sys.executable, "-c", "import os, sys, time; rank = int(os.environ['RANK'])\n" + text]


def test_all_ranks_run_and_the_leaders_exit_code_is_the_runs(tmp_path: Path) -> None:
    assert run_ranks(3, script(f"open(f'{tmp_path}/{{rank}}', 'w')")) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]
    assert run_ranks(2, script("sys.exit(75 if rank == 0 else 0)")) == 75


def test_a_rank_that_kills_itself_ends_the_others_and_is_named(monkeypatch, capfd) -> None:
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.2)
    started = time.monotonic()
    waiting = "os.kill(os.getpid(), 9) if rank == 1 else time.sleep(100)"
    assert run_ranks(2, script(waiting)) == 1
    assert time.monotonic() - started < 60
    assert "rank 1, starting: killed by SIGKILL" in capfd.readouterr().err


def test_the_end_of_a_failed_followers_output_is_shown(monkeypatch, capfd) -> None:
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.2)
    failing = "print('what it said', flush=True) or sys.exit(3) if rank else time.sleep(100)"
    assert run_ranks(2, script(failing)) == 3
    said = capfd.readouterr().err
    assert "what it said" in said
    assert "rank 1: ended with exit code 3" in said


def test_a_signal_goes_to_the_leader_alone(tmp_path: Path) -> None:
    text = f"""
import signal
def stop(*_):
    open('{tmp_path}/signalled-' + str(rank), 'w')
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
open('{tmp_path}/ready-' + str(rank), 'w')
time.sleep(100 if rank == 0 else 2)
"""
    start = "import sys; from vibelite.ranks.launch import run_ranks; sys.exit(run_ranks(2, {}))"
    program = start.format(repr(script(text)))
    process = subprocess.Popen([sys.executable, "-c", program])
    while len(list(tmp_path.glob("ready-*"))) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=60) == 75
    assert [path.name for path in tmp_path.glob("signalled-*")] == ["signalled-0"]


def test_places_and_gpus_of_a_process_that_torchrun_started(monkeypatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert (is_follower(), num_nodes(), num_gpus_of(4)) == (False, 1, 4)
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "16"), ("LOCAL_WORLD_SIZE", "8")):
        monkeypatch.setenv(name, value)
    assert (is_follower(), num_nodes()) == (True, 2)
    assert num_gpus_of(8) == num_gpus_of(1) == 16
    assert num_gpus_of(0) == 0


@pytest.mark.parametrize(
    ("cost", "two"),
    [
        ({"usd_per_hour": 2.5}, {"usd_per_hour": 5.0}),
        ({"usd_per_gpu_hour": 3.0}, {"usd_per_gpu_hour": 3.0}),
    ],
)
def test_two_machines_cost_twice_as_much_and_gpus_are_counted_anyway(cost, two) -> None:
    assert Cost.model_validate(cost).times(2) == Cost.model_validate(two)
    assert Cost.model_validate(cost).times(1) == Cost.model_validate(cost)


def test_engines_that_do_not_fill_a_machine_of_torchruns_are_refused(monkeypatch, tmp_path) -> None:
    @contextmanager
    def three_ranks(*_: object):
        yield Ranks(num_ranks=6, num_nodes=2)

    monkeypatch.setattr(join, "joined_world", three_ranks)
    sets = ["rollout.engine=vllm", "rollout.tensor_parallel=2", "num_gpus=2"]
    recipe, run = load_recipe(write_recipe(tmp_path), sets), RunDir(tmp_path / "run")
    with (
        pytest.raises(RecipeError, match="must divide the 3 processes"),
        torch_and_ranks(recipe, run, Meter()),
    ):
        pass


def test_a_run_goes_on_with_another_number_of_gpus_to_an_engine(tmp_path) -> None:
    path = write_recipe(tmp_path)
    one, two = (
        what_matters(dump_resolved(load_recipe(path, ["rollout.engine=vllm", *sets])))
        for sets in ([], ["num_gpus=2", "rollout.tensor_parallel=2"])
    )
    assert one == two
    assert one["rollout"]["engine"] == "vllm"

"""Real processes on a CPU over gloo: the same run on any number of them, killed ranks, two nodes.

Tolerances: losses differ by the order of float32 sums (4e-7 seen, of losses up to 6), weights by
what AdamW makes of that in 14 steps at rates of 1e-2 and 1e-3 (5e-6 seen, of weights up to 1).
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_activations import TINY
from benchmarks.rank_runs import RECIPE, command_of, difference, kill_and_resume, losses, run_curve
from benchmarks.scaling import START
from vibelite.planning.memory_model import StageConfig
from vibelite.planning.model_shape import shape_of_config
from vibelite.planning.time_model import communicated_bytes
from vibelite.planning.workload import Assumptions
from vibelite.recipe.model_section import Training
from vibelite.run_dir import read_jsonl
from vibelite.telemetry.ledger import read_ledger

LOSS_TOLERANCE = 1e-5
WEIGHT_TOLERANCE = 1e-4
ROOT = Path(__file__).parent.parent.parent
TINY_SETTING = StageConfig(shape_of_config(TINY), Training(), Assumptions())

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole runs on 2 and 4 processes."""
    directory = tmp_path_factory.mktemp("curves")
    for num_ranks in (2, 4):
        row = run_curve(num_ranks, directory / f"curve-{num_ranks}")
        assert row.get("status") != "failed", row["text"]
    return directory


def require_same(run_dir: Path, other: Path) -> None:
    found = difference(run_dir, other)
    assert found["loss_difference"] < LOSS_TOLERANCE
    assert found["weight_difference"] < WEIGHT_TOLERANCE


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_the_number_of_processes_changes_nothing_but_rounding(
    alone: Path, curves: Path, num_ranks: int
) -> None:
    found = losses(alone)
    assert [len(values) for values in found.values()] == [4, 10]
    assert found["sft"][0] - found["sft"][-1] > 1  # it learns: equal curves are no equal standstill
    require_same(curves / f"curve-{num_ranks}", alone)


def sampled(run_dir: Path) -> dict[tuple[str, int], str]:
    """What was sampled of the base model in the stage that the leader runs."""
    (path,) = run_dir.glob("stages/*-evaluate/samples.jsonl")
    rows = [row for row in read_jsonl(path) if row["key"] == "held-out--base"]
    return {(row["problem_id"], row["sample"]): row["completion"] for row in rows}


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_ranks_sample_for_the_leaders_stages(alone: Path, curves: Path, num_ranks: int) -> None:
    assert len(sampled(alone)) == 24
    assert sampled(curves / f"curve-{num_ranks}") == sampled(alone)


def test_all_ranks_are_in_the_records_and_paid_once(alone: Path, curves: Path) -> None:
    one, four = (
        list(read_jsonl(next(run_dir.glob("stages/*-mgpo/steps.jsonl"))))
        for run_dir in (alone, curves / "curve-4")
    )
    for expected, shared in zip(one, four, strict=True):
        assert shared["tokens"] == expected["tokens"]
        assert shared["counts"] == expected["counts"]
        assert shared["seconds"]["train"] > 0 and shared["peak_bytes"]["train"] > 0
    entries = read_ledger(curves / "curve-4" / "ledger")
    paid = [entry for entry in entries if entry.stage == "mgpo" and entry.step is not None]
    assert [entry.step for entry in paid] == list(range(1, 11))
    for entry, shared in zip(paid, four, strict=True):
        assert entry.wall_nanoseconds / 1e9 == pytest.approx(sum(shared["seconds"].values()))


def test_a_killed_rank_ends_all_and_the_state_of_two_resumes_on_one_and_on_four(
    alone: Path, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    row = kill_and_resume(2, 1, killed, alone, seed=0, keep=tmp_path / "state-of-two")
    assert row["status"] == "done", row
    assert row["seconds_to_end"] < 30
    require_same(killed, alone)
    saved = tmp_path / "state-of-two"
    assert list(saved.glob("stages/*/resume/step-*/.metadata"))
    assert run_curve(4, saved).get("status") != "failed"
    require_same(saved, alone)


def test_two_nodes_of_torchrun_with_one_run_directory_train_as_one(
    alone: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    run = ["run", str(RECIPE), "--run-dir", str(tmp_path / "nodes")]
    agent = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "test",
        "--local-addr", "127.0.0.1", "-m", "vibelite", *run,
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen(agent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
        for _ in range(2)
    ]
    outputs = [node.communicate(timeout=300)[0].decode() for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    require_same(tmp_path / "nodes", alone)


def test_ranks_draw_refill_and_remember_alike(tmp_path: Path) -> None:
    samples = []
    for num_ranks in (1, 2):
        command = command_of(num_ranks, tmp_path / str(num_ranks))
        command += ["--set", "stages.mgpo.refill.max_rounds=2"]
        command += ["--set", "stages.mgpo.memory.decay=0.9"]
        subprocess.run(command, check=True, timeout=300, capture_output=True)
        (path,) = (tmp_path / str(num_ranks)).glob("stages/*-mgpo/samples.jsonl")
        samples.append([(row["step"], row["problem_id"]) for row in read_jsonl(path)])
    assert len(samples[0]) > 10 * 6 * 4, "some groups were dropped"
    assert samples[0] == samples[1]
    require_same(tmp_path / "2", tmp_path / "1")


def counted(num_ranks: int, out: Path, *arguments: str) -> dict[str, Any]:
    """The row of one part of `benchmarks.scaling_rank` on the tiny model."""
    module = [sys.executable, "-m", "benchmarks.scaling_rank", "--work", "tiny"]
    module += ["--out", str(out), *arguments]
    command = [sys.executable, "-c", START.format(n=num_ranks, command=module)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=200, capture_output=True)
    return json.loads(out.read_text())["rows"][0]


def test_counted_bytes_are_those_of_the_plan(tmp_path: Path) -> None:
    """Four ranks send 3/4 of everything; of two it could be either half."""
    row = counted(4, tmp_path / "rows.jsonl", "--parts", "communication")
    planned = communicated_bytes(replace(TINY_SETTING, num_gpus=4))
    # What is counted has every tensor padded to a multiple of the ranks.
    assert planned <= row["sent_bytes"] < 1.01 * planned


def test_counted_bytes_of_cut_weights_are_those_of_the_plan(tmp_path: Path) -> None:
    """8 sequences of 64 tokens on two ranks: two micro-batches of 128 each."""
    row = counted(2, tmp_path / "rows.jsonl", "--parts", "sft", "--full-sharding")
    setting = replace(TINY_SETTING, sharding="full", num_gpus=2)
    planned = communicated_bytes(setting, num_passes=2)
    assert planned <= row["sent_bytes"] < 1.01 * planned


def test_an_error_of_the_leader_is_one_message_and_its_exit_code(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "vibelite", "run", str(RECIPE), "--run-dir", str(run_dir)]
    command += ["--set", "num_gpus=2", "--set", "stages.0.optimizer.kind=muon"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert done.stderr.count("only adamw shares its state") == 1
    assert "Traceback" not in done.stderr
    shutil.rmtree(run_dir)

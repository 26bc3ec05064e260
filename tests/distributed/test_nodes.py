"""Two agents of torchrun, each with a run directory of its own: what becomes of both directories
when a node is killed, replaced, or starts first. What all of them share is in test_ranks.py.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.rank_runs import RECIPE, losses, ranks_of, steps_of
from tests.distributed.test_ranks import LOSS_TOLERANCE, require_same
from vibelite.storage import damage_of, files_under, sha256_of

NUM_STEPS = 5
# A step with its 24 completions takes longer than a look at the directory.
SLOWED = {"REWARD_SECONDS": "0.5"}

pytestmark = pytest.mark.slow


def command(run_dir: Path) -> list[str]:
    run = ["run", str(RECIPE), "--run-dir", str(run_dir)]
    return [*run, "--set", f"stages.1.num_steps={NUM_STEPS}"]


def start_nodes(*run_dirs: Path, **environment: str) -> list[subprocess.Popen[str]]:
    """One agent and one rank for each run directory; the first leads."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    under = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(len(run_dirs))]
    under += ["--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(port)]
    return [
        subprocess.Popen(
            [*under, "--node-rank", str(number), "-m", "vibelite", *command(run_dir)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        )
        for number, run_dir in enumerate(run_dirs)
    ]


def end_of(nodes: list[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    """Exit codes, and what was printed."""
    said = [node.communicate(timeout=300)[0] for node in nodes]
    return [node.returncode for node in nodes], said


def copied(run_dir: Path) -> dict[str, str]:
    """SHA-256 of all that is to be the same on every node."""
    leaders = (".lock", "ledger", "steps.jsonl", "samples.jsonl", "manifest.json", "summary.json")
    return {
        str(path.relative_to(run_dir)): sha256_of(path)
        for path in files_under(run_dir)
        if not {*leaders, "report.html", "follows.json"} & set(path.relative_to(run_dir).parts)
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("nodes") / "alone"
    subprocess.run(
        [sys.executable, "-m", "vibelite", *command(run_dir)],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    return run_dir


@pytest.fixture(scope="module")
def killed(alone: Path) -> tuple[Path, Path]:
    """The directories of two nodes, of which the second lost its rank after a state was saved."""
    first, second = alone.with_name("first"), alone.with_name("second")
    nodes = start_nodes(first, second, **SLOWED)
    started = time.monotonic()
    while steps_of(first) < 7:  # 4 of SFT, and of MGPO one more than were saved
        assert time.monotonic() - started < 300 and nodes[1].poll() is None
        time.sleep(0.02)
    os.kill(ranks_of(nodes[1])[1], signal.SIGKILL)
    since = time.monotonic()
    codes, said = end_of(nodes)
    assert 0 not in codes and time.monotonic() - since < 60, said
    return first, second


def test_every_node_holds_the_whole_state(killed: tuple[Path, Path]) -> None:
    for run_dir in killed:
        (state,) = run_dir.glob("stages/*/resume/step-*")
        assert not damage_of(state)
        parts = sorted(path.name for path in (state / "parts").iterdir())
        assert parts == [".metadata", "__0_0.distcp", "__1_0.distcp"]
    first, second = map(copied, killed)
    assert "stages/00-sft/checkpoints/step-000004/model.safetensors" in first
    assert first == second


def test_a_node_with_copies_does_not_lead(killed: tuple[Path, Path]) -> None:
    first, second = killed
    before = [copied(run_dir) for run_dir in killed]
    codes, said = end_of(start_nodes(second, first))
    assert codes[0] != 0
    lines = "".join(said).splitlines()
    (message,) = [line for line in lines if "holds copies of a run that" in line]
    assert f"{second}: " in message and "--node-rank 0" in message
    assert before == [copied(run_dir) for run_dir in killed]


def test_a_node_goes_on_by_itself_where_the_leader_is_lost(
    killed: tuple[Path, Path], alone: Path, tmp_path: Path
) -> None:
    taken_over = tmp_path / "run"
    shutil.copytree(killed[1], taken_over)
    (taken_over / "follows.json").unlink()
    run = [sys.executable, "-m", "vibelite", *command(taken_over)]
    subprocess.run(run, check=True, capture_output=True, timeout=300)
    found, expected = losses(taken_over)["mgpo"], losses(alone)["mgpo"]
    assert found == pytest.approx(expected[2:], abs=LOSS_TOLERANCE)


def test_a_replaced_node_gets_everything_and_the_run_ends_as_on_one(
    killed: tuple[Path, Path], alone: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(killed[0], first)
    codes, said = end_of(start_nodes(first, second))
    assert codes == [0, 0], said
    require_same(first, alone)
    assert copied(first) == copied(second)
    assert "export/model.safetensors" in copied(second)
    assert not list(second.glob("stages/*/resume"))

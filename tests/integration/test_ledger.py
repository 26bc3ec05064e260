"""The ledger of a real, tiny run: its spans are the clock on the wall, its budget holds."""

import signal
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vibelite.cli import app
from vibelite.errors import BudgetReached
from vibelite.pipeline import run_pipeline
from vibelite.recipe.load import load_recipe
from vibelite.run_dir import read_jsonl
from vibelite.telemetry import meter
from vibelite.telemetry.ledger import lost_entries, read_ledger, run_cost
from vibelite.training.optim import PolicyOptimizer

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Path(__file__).parent / "nano.yaml"
# A second costs a dollar, and what a run makes is the same on any machine.
PRICE = "cost.usd_per_hour=3600"
STEPS = 60
STEP_SECONDS = 0.1


@pytest.fixture
def young_process(monkeypatch):
    """As if every run were started in a process of its own, that has just begun."""
    monkeypatch.setattr(meter, "process_nanoseconds", lambda: 0)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


class Clock:
    """The meter's clock, and its last reading."""

    last = 0

    def __call__(self) -> int:
        self.last = time.perf_counter_ns()
        return self.last


def test_spans_add_up_to_the_clock_on_the_wall_in_every_step(tmp_path, monkeypatch):
    """Measured from outside: between two laps nothing is missed or counted twice."""
    recipe = load_recipe(RECIPE, [PRICE])
    clock = Clock()
    walls: list[tuple[int, meter.Lap]] = []
    make, take_lap = meter.Meter.__init__, meter.Meter.lap
    last = 0

    def timed(self, **options):
        nonlocal last
        make(self, clock, **options)
        last = clock.last

    def timed_lap(self):
        nonlocal last
        lap = take_lap(self)
        walls.append((clock.last - last, lap))
        last = clock.last
        return lap

    monkeypatch.setattr(meter.Meter, "__init__", timed)
    monkeypatch.setattr(meter.Meter, "lap", timed_lap)
    started = time.perf_counter()
    run_pipeline(recipe, recipe_path=RECIPE, run_dir=tmp_path / "run")
    whole = time.perf_counter() - started
    for wall, lap in walls:
        assert sum(lap.nanoseconds.values()) == wall
        assert all(nanoseconds >= 0 for nanoseconds in lap.nanoseconds.values())
    rows = [
        row
        for path in sorted(tmp_path.glob("run/stages/*/steps.jsonl"))
        for row in read_jsonl(path)
    ]
    assert len(rows) == 6 + 4
    lengths = {round(sum(lap.seconds.values()), 9) for _, lap in walls}
    assert {round(sum(row["seconds"].values()), 9) for row in rows} <= lengths
    entries = read_ledger(tmp_path / "run" / "ledger")
    assert [entry.nanoseconds for entry in entries] == [lap.nanoseconds for _, lap in walls]
    seconds, usd = run_cost(tmp_path / "run" / "ledger")
    assert seconds == pytest.approx(sum(wall for wall, _ in walls) / 1e9, rel=1e-9)
    assert 0.5 * whole < seconds <= whole
    assert usd is not None and float(usd) == pytest.approx(seconds, rel=1e-6)
    assert lost_entries(entries) == []
    assert {"rollout", "verify", "train", "optimizer", "sync"} <= rows[-1]["seconds"].keys()
    assert rows[-1]["counts"]["num_completions"] == 16
    assert rows[-1]["usd_so_far"] < float(usd)


def run_sft(directory: Path, *options: str):
    """`vibelite run` of the stage of supervised fine-tuning; what the command did."""
    arguments = ["run", str(RECIPE), "--run-dir", str(directory), "--until", "sft"]
    arguments += ["--set", PRICE, "--set", f"stages.sft.num_steps={STEPS}"]
    arguments += ["--set", "stages.sft.checkpoint_every=100"]
    return CliRunner().invoke(app, [*arguments, *options])


@pytest.fixture
def slow_steps(monkeypatch):
    """Steps that cost more than starting does, and as much on a busy machine."""
    update = PolicyOptimizer.step

    def wait(optimizer: PolicyOptimizer, step: int) -> dict[str, float]:
        time.sleep(STEP_SECONDS)
        return update(optimizer, step)

    monkeypatch.setattr(PolicyOptimizer, "step", wait)


def test_half_the_known_cost_stops_a_run_before_it_and_a_higher_limit_goes_on(
    tmp_path, young_process, slow_steps
):
    # The first run of a process also imports.
    assert run_sft(tmp_path / "warm", "--set", "stages.sft.num_steps=1").exception is None
    assert run_sft(tmp_path / "known").exception is None
    _, known = run_cost(tmp_path / "known" / "ledger")
    assert known is not None
    limit = float(known) / 2
    directory = tmp_path / "run"
    stopped = run_sft(directory, "--budget-usd", str(limit))
    assert isinstance(stopped.exception, BudgetReached)
    assert stopped.exception.exit_code == 10
    assert "raise the limit and run the same command" in str(stopped.exception)
    _, spent = run_cost(directory / "ledger")
    assert spent is not None and float(spent) <= limit
    steps = list(read_jsonl(directory / "stages" / "00-sft" / "steps.jsonl"))
    assert 0 < len(steps) < STEPS
    states = sorted((directory / "stages" / "00-sft" / "resume").glob("step-*"))
    assert states[-1].name == f"step-{len(steps):06d}"
    assert (directory / "report.html").exists()
    # Again with the same limit no step is done; with a higher one the run ends as the other did.
    assert isinstance(run_sft(directory, "--budget-usd", str(limit)).exception, BudgetReached)
    done = run_sft(directory, "--budget-usd", str(10 * limit))
    assert done.exception is None and done.exit_code == 0
    assert [row["step"] for row in read_jsonl(directory / "stages/00-sft/steps.jsonl")] == [
        *range(1, STEPS + 1)
    ]
    weights = [
        (tmp_path / name / f"stages/00-sft/checkpoints/step-{STEPS:06d}/model.safetensors")
        for name in ("known", "run")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert lost_entries(read_ledger(directory / "ledger")) == []

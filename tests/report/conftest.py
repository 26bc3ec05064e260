"""A run directory as the stages leave it, without any training: made-up curves, real recorder."""

import math
import random
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.telemetry.ledgers import FakeClock
from vibelite.recipe.run_section import Budget, Cost
from vibelite.report.server import LiveReport, make_server
from vibelite.run_dir import RunDir, StageDir, append_jsonl, write_json_atomic, write_text_atomic
from vibelite.telemetry.meter import Meter
from vibelite.telemetry.recorder import Recorder
from vibelite.telemetry.spending import Spending
from vibelite.telemetry.stop import StopRules

SUBDOMAINS = ("algebra", "geometry", "number", "counting")
HOSTILE = "<script>alert(1)</script></pre><img src=x onerror=alert(2)> \x1b[31mred\x1b[0m {{ 7*7 }}"

# Names in the results -> what stands for their directories in the keys of samples.
MODELS = {
    "base": "base",
    "sft": "stages-00-sft-checkpoints-step-000060",
    "probe-algebra": "stages-00-sft-checkpoints-step-000060",
    "probe-number": "stages-00-sft-checkpoints-step-000050",
    "tail-average": "stages-02-fuse-checkpoints-tail-average",
    "fuse": "stages-02-fuse-checkpoints-fused",
    "mgpo": "stages-03-mgpo-checkpoints-step-000040",
}

RECIPE = """\
name: {name}
stages:
- {{name: sft, num_steps: {sft_steps}}}
- name: probe
- name: fuse
- {{name: mgpo, num_steps: {mgpo_steps}}}
- name: evaluate
"""


@dataclass
class RunBuilder:
    """Writes the files of one run, stage by stage."""

    run: RunDir
    usd_per_hour: float | None = 2.0
    sft_steps: int = 60
    mgpo_steps: int = 40
    seed: int = 0

    def __post_init__(self):
        self.random = random.Random(self.seed)
        self.clock = FakeClock()
        self.meter = Meter(self.clock)

    def recorder(self, name: str, stage_dir: StageDir) -> Recorder:
        cost = Cost(usd_per_hour=self.usd_per_hour)
        stop = StopRules(Budget(), Spending(cost, self.run.ledger_path))
        steps = {"sft": self.sft_steps, "mgpo": self.mgpo_steps}.get(name)
        return Recorder(name, stage_dir, self.meter, stop, num_steps=steps)

    def spend(self, **seconds: float) -> None:
        for span, amount in seconds.items():
            with self.meter.span(span):
                self.clock.now += round(amount * 1e9 * self.random.uniform(0.8, 1.2))
        self.clock.now += 20_000_000

    def finished(self) -> "RunBuilder":
        """A run in which every stage has ended."""
        for stage in (self.base, self.sft, self.probe, self.fuse, self.mgpo, self.evaluate):
            stage()
        return self

    def base(self) -> None:
        name = self.run.path.name
        recipe = RECIPE.format(name=name, sft_steps=self.sft_steps, mgpo_steps=self.mgpo_steps)
        write_text_atomic(self.run.path / "recipe.resolved.yaml", recipe)
        manifest = {"recipe": name, "seed": self.seed, "versions": {"torch": "2.13.0"}}
        write_json_atomic(self.run.path / "manifest.json", manifest)
        self.spend(load=4)
        self.recorder("base", StageDir(self.run.path)).record_work("load")

    def sft(self, num_steps: int | None = None) -> None:
        stage_dir = self.run.stage(0, "sft")
        recorder = self.recorder("sft", stage_dir)
        for step in range(1, (num_steps or self.sft_steps) + 1):
            self.spend(train=0.3, optimizer=0.05, **({"checkpoint": 0.4} if step % 10 == 0 else {}))
            self.meter.add_tokens(trained=4800)
            metrics = {
                "sft/loss": 0.25 + 4 * math.exp(-step / 12) + self.random.gauss(0, 0.03),
                "optimizer/grad_norm": 0.3 + self.random.expovariate(4),
            }
            recorder.record_step(step, metrics)
        if num_steps is None:
            stage_dir.finish(models={"sft": stage_dir.checkpoints / "step-000060"})

    def probe(self) -> None:
        stage_dir = self.run.stage(1, "probe")
        recorder = self.recorder("probe", stage_dir)
        checkpoints = []
        for step in range(10, self.sft_steps + 1, 10):
            self.spend(load=0.2, rollout=2, verify=0.1)
            self.meter.add_tokens(prompt=900, generated=60_000)
            recorder.record_work("probe", checkpoint=f"step-{step:06d}")
            pass_at_k = {name: self.random.uniform(0.3, 0.8) for name in SUBDOMAINS}
            pass_at_1 = {name: value / 2 for name, value in pass_at_k.items()}
            path = f"step-{step:06d}"
            checkpoints.append(
                {"step": step, "path": path, "pass_at_k": pass_at_k, "pass_at_1": pass_at_1}
            )
        probe = {"k": 8, "num_samples": 16, "subdomains": SUBDOMAINS, "checkpoints": checkpoints}
        probe["specialists"] = dict.fromkeys(SUBDOMAINS, 60) | {"number": 50}
        write_json_atomic(stage_dir.path / "probe.json", probe)
        kept = self.run.path / "stages" / "00-sft" / "checkpoints"
        stage_dir.finish(
            models={"probe-algebra": kept / "step-000060", "probe-number": kept / "step-000050"}
        )

    def fuse(self) -> None:
        stage_dir = self.run.stage(2, "fuse")
        self.spend(fuse=0.6)
        self.recorder("fuse", stage_dir).record_work("fuse")
        models = {"tail-average": "tail-average", "fuse": "fused"}
        stage_dir.finish(
            models={name: stage_dir.checkpoints / place for name, place in models.items()}
        )

    def mgpo(self, num_steps: int | None = None) -> None:
        stage_dir = self.run.stage(3, "mgpo")
        recorder = self.recorder("mgpo", stage_dir)
        for step in range(1, (num_steps or self.mgpo_steps) + 1):
            self.spend(rollout=1.6, verify=0.1, train=0.7, optimizer=0.1)
            self.meter.add_tokens(prompt=600, generated=6400, trained=5000)
            recorder.record_samples(step, self.sample_rows(step))
            recorder.record_step(step, self.mgpo_metrics(step))
        if num_steps is None:
            stage_dir.finish(models={"mgpo": stage_dir.checkpoints / "step-000040"})

    def mgpo_metrics(self, step: int) -> dict[str, float]:
        noise = self.random.gauss
        reward = 0.45 + 0.35 * (1 - math.exp(-step / 15)) + noise(0, 0.03)
        return {
            "reward/mean": reward,
            "groups/all_correct": reward * 0.5,
            "groups/all_wrong": 0.1,
            "groups/mixed": 0.9 - reward * 0.5,
            "policy/loss": noise(0, 0.01),
            "policy/entropy": 0.5 * math.exp(-step / 60) + abs(noise(0, 0.01)),
            "mismatch/k3": 2e-12 * abs(noise(1, 0.4)),
            "rollout/tokens_per_second": 4000 + noise(0, 200),
            "completion/mean_tokens": 44 + noise(0, 1),
            "completion/truncated": max(0.0, 0.1 - step / 400),
            "optimizer/grad_norm": 0.3 + abs(noise(0, 0.1)),
            **{f"reward/{name}": min(1.0, reward + noise(0, 0.08)) for name in SUBDOMAINS},
        }

    def sample_rows(self, step: int) -> list[dict]:
        solution = "4 * x = 27 - 3\n4 * x = 24\nx = 24 / 4\n\\boxed"
        return [
            {
                "problem_id": f"{name}-{step}",
                "subdomain": name,
                "prompt": "If 4 * x + 3 = 27, what is x?",
                "completion": HOSTILE if (step, index) == (1, 0) else f"{solution}{{{index}}}",
                "reward": float(index % 3 != 0),
                "correct": index % 3 != 0,
                "expected": "6",
                "detail": "" if index % 3 else "expected 6",
                "advantage": 0.7 if index % 3 else -1.3,
                "num_tokens": 40 + index,
                "finish_reason": "stop" if index else "length",
            }
            for name in SUBDOMAINS
            for index in range(8)
        ]

    def evaluate(self) -> None:
        stage_dir = self.run.stage(4, "evaluate")
        recorder = self.recorder("evaluate", stage_dir)
        rows = []
        for index, name in enumerate(MODELS):
            self.spend(load=0.2, rollout=3, verify=0.2)
            self.meter.add_tokens(prompt=2000, generated=90_000)
            recorder.record_work("evaluate", model=name)
            rows.append(result_row(name, 0.01 + 0.1 * index))
        for directory in dict.fromkeys(MODELS.values()):  # one model may have two names
            key = f"held-out--{directory}"
            samples = [row | {"key": key} for row in self.sample_rows(0)]
            append_jsonl(stage_dir.samples_path, samples)
        write_json_atomic(stage_dir.path / "results.json", rows)
        stage_dir.finish(models={})


def result_row(stage: str, pass_at_1: float, benchmark: str = "held-out") -> dict:
    """One row as the evaluate stage writes it."""
    pass_at_8 = pass_at_1 + 0.25
    scores = {"num_problems": 64, "pass_at_1": pass_at_1, "pass_at_k": {"8": pass_at_8}}
    return {
        "stage": stage,
        "benchmark": benchmark,
        "num_problems": 256,
        "num_samples": 8,
        "pass_at_1": pass_at_1,
        "pass_at_1_ci": [max(0.0, pass_at_1 - 0.04), pass_at_1 + 0.04],
        "pass_at_k": {"8": pass_at_8},
        "pass_at_k_ci": {"8": [pass_at_8 - 0.05, pass_at_8 + 0.05]},
        "subdomains": dict.fromkeys(SUBDOMAINS, scores),
        "truncated": 0.05,
        "mean_tokens": 43.2,
        "usd": 0.0123,
        "seconds": 22.1,
    }


@pytest.fixture
def make_run(tmp_path):
    """Makes an empty run directory and the builder that fills it."""

    def make(name: str = "trial", **options) -> RunBuilder:
        path: Path = tmp_path / name
        path.mkdir(parents=True)
        return RunBuilder(RunDir(path), **options)

    return make


@pytest.fixture
def finished_run(make_run):
    return make_run().finished()


@pytest.fixture
def port(finished_run):
    """Of a live report about the finished run."""
    with make_server(LiveReport([finished_run.run.path]), port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()

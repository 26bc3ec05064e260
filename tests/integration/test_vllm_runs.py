"""Runs that sample with vLLM: they learn what runs with transformers learn, and a fault that is
planted in one ends it at its first step. The real vLLM, on a CPU: make test-vllm.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.rollout.engines import policy_for_vllm
from vibelite.errors import EngineError
from vibelite.pipeline import run_pipeline
from vibelite.recipe.load import load_recipe
from vibelite.rollout.vllm_engine import VLLMEngine
from vibelite.rollout.vllm_weights import WeightSync
from vibelite.run_dir import read_jsonl

pytestmark = pytest.mark.vllm

NUM_STEPS = 20
SEEDS = (0, 1, 2)
REWARD = '''"""Right where there is a digit: a random model is sometimes, a trained one always."""

def score(problem, completion_text):
    return float(any(letter.isdigit() for letter in completion_text))
'''


def recipe_file(directory: Path) -> Path:
    """One stage of reinforcement, from the same random weights whatever the seed."""
    policy_for_vllm(hidden_size=64, num_layers=1, num_heads=2, num_kv_heads=1).save(
        directory / "model"
    )
    (directory / "reward.py").write_text(REWARD)
    rows = [{"id": f"p{i}", "prompt": f"problem {i}: 1 + {i}", "answer": "1"} for i in range(12)]
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe: dict[str, Any] = {
        "name": "digits",
        "num_threads": 1,
        "model": {"source": "pretrained", "path": "model"},
        "data": {
            "problems": {
                "train": {
                    "source": "file", "path": "rows.jsonl", "verifier": "custom",
                    "reward": {"file": "reward.py"},
                }
            }
        },
        "stages": [
            {
                "kind": "mgpo", "start_from": "base", "num_steps": NUM_STEPS,
                "problems_per_step": 6, "group_size": 16, "maxent_lambda": 1.0,
                "sampling": {"max_new_tokens": 64, "max_sequences": 96},
                "optimizer": {"lr": 3e-3, "schedule": "constant", "warmup_fraction": 0},
            }
        ],
    }  # fmt: skip
    path = directory / "digits.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def run(path: Path, directory: Path, *overrides: str) -> list[dict[str, float]]:
    """The metrics of every step."""
    run_pipeline(load_recipe(path, overrides), recipe_path=path, run_dir=directory)
    return metrics_of(directory)


def metrics_of(directory: Path) -> list[dict[str, float]]:
    (steps,) = directory.glob("stages/*-mgpo/steps.jsonl")
    return [row["metrics"] for row in read_jsonl(steps)]


def test_twenty_steps_learn_what_they_learn_with_transformers(tmp_path):
    path = recipe_file(tmp_path)
    curves: dict[str, list[list[float]]] = {"transformers": [], "vllm": []}
    for engine, of_seeds in curves.items():
        for seed in SEEDS:
            directory = tmp_path / f"{engine}-{seed}"
            settings = [f"rollout.engine={engine}", f"seed={seed}"]
            steps = run(path, directory, *settings)
            assert len(steps) == NUM_STEPS
            of_seeds.append([row["reward/mean"] for row in steps])
            if engine == "vllm":
                assert all(row["sync/by_alias"] == 1.0 for row in steps)
                assert max(row.get("mismatch/max_abs", 0.0) for row in steps) < 1e-4
    for of_seeds in curves.values():
        for curve in of_seeds:
            assert statistics.fmean(curve[-5:]) > statistics.fmean(curve[:3]) + 0.2, "they learn"
    for part in (slice(0, 5), slice(5, 10), slice(10, NUM_STEPS)):
        means = {
            engine: [statistics.fmean(curve[part]) for curve in of_seeds]
            for engine, of_seeds in curves.items()
        }
        # Of a step's 96 completions, and of what the seeds differ by among themselves.
        spread = math.sqrt(sum(statistics.variance(values) for values in means.values()) / 2)
        noise = spread + 0.5 / math.sqrt(96 * (part.stop - part.start))
        apart = statistics.fmean(means["vllm"]) - statistics.fmean(means["transformers"])
        assert abs(apart) <= 2.5 * noise * math.sqrt(2 / len(SEEDS)), (part, means)


@pytest.mark.parametrize("shared", ["rollout.tensor_parallel=2", "parallel.sharding=full"])
def test_two_ranks_do_what_one_does_by_itself(shared, tmp_path):
    """With half an engine each; with an engine each, and pieces of the weights while training."""
    path = recipe_file(tmp_path)
    settings = ["rollout.engine=vllm", "stages.mgpo.num_steps=4"]
    alone = run(path, tmp_path / "alone", *settings)
    command = [sys.executable, "-m", "vibelite", "run", path, "--run-dir", tmp_path / "together"]
    for setting in (*settings, "num_gpus=2", shared):
        command += ["--set", setting]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for one, two in zip(alone, metrics_of(tmp_path / "together"), strict=True):
        assert (one["sync/by_alias"], two["sync/by_copy"]) == (1.0, 1.0)
        # 5e-13 nats of KL and 8e-6 seen, with one rank and with two.
        assert max(one["mismatch/k3"], two["mismatch/k3"]) < 1e-11
        assert max(one["mismatch/max_abs"], two["mismatch/max_abs"]) < 1e-4
        assert two["reward/mean"] == pytest.approx(one["reward/mean"], abs=2 / 96)


def plant(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Breaks the engine of the next run in the way that `fault` names."""
    if fault == "skipped sync":
        load_weights = VLLMEngine.load_weights

        def skipping(self: VLLMEngine, version: int) -> None:
            if not self._synced:
                load_weights(self, version)
            self._state.weights_are_pushed = True

        monkeypatch.setattr(VLLMEngine, "load_weights", skipping)
        return
    if fault == "kv cache asleep":

        def waking(self: VLLMEngine) -> None:
            self._wake_weights()

        monkeypatch.setattr(VLLMEngine, "wake", waking)
        return
    push = WeightSync.push
    initial: dict[str, torch.Tensor] = {}

    def pushing(self: WeightSync) -> int:
        copied = push(self)
        views = dict(self.views())
        if not initial:
            initial.update({name: view.clone() for name, view in views.items()})
        elif fault == "initial checkpoint":
            for name, view in views.items():
                view.copy_(initial[name])
        else:
            gate, up = (views[f"model.layers.0.mlp.{name}_proj.weight"] for name in ("gate", "up"))
            kept = gate.clone()
            gate.copy_(up)
            up.copy_(kept)
        return copied

    monkeypatch.setattr(WeightSync, "push", torch.no_grad()(pushing))


FAULTS = {
    "skipped sync": (2, "a sync was skipped"),
    "initial checkpoint": (1, "the engine's weights are not the trainer's"),
    "exchanged tensors": (1, "are not the trainer's .*gate_proj.weight and 1 more"),
    "kv cache asleep": (2, r"the engine is asleep \(its KV cache is\)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_ends_the_run_before_a_wrong_token_is_sampled(tmp_path, monkeypatch, fault):
    """The step in which it ends: the first that would sample from wrong weights, or at the end of
    the one before, as soon as they are pushed.
    """
    path = recipe_file(tmp_path)
    plant(monkeypatch, fault)
    step, message = FAULTS[fault]
    with pytest.raises(EngineError, match=message):
        run(path, tmp_path / "run", "rollout.engine=vllm", "rollout.vllm.sync=copy")
    steps = list(tmp_path.glob("run/stages/*-mgpo/steps.jsonl"))
    finished = len(list(read_jsonl(steps[0]))) if steps else 0
    assert finished == step - 1

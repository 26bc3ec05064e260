"""The whole pipeline on a few thousand parameters: what it leaves, whether interrupted or not.

An interruption is an exception at a chosen write: everything after it did not happen, as after a
SIGKILL. `benchmarks/kill_resume.py` does the same to the real quickstart with real SIGKILLs.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import vibelite.run_dir
from vibelite.errors import BudgetReached, RecipeError
from vibelite.errors import Interrupted as StoppedBySignal
from vibelite.pipeline import run_pipeline
from vibelite.recipe.load import load_recipe
from vibelite.run_dir import read_jsonl
from vibelite.telemetry.ledger import read_ledger
from vibelite.telemetry.recorder import Recorder

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Path(__file__).parent / "nano.yaml"
SUBDOMAINS = ["algebra", "number"]


class Interrupted(BaseException):
    """Not an Exception, so that nothing in between can catch it."""


def run(directory: Path, *overrides: str, until: str | None = None, boot_seconds: int = 0) -> None:
    recipe = load_recipe(RECIPE, overrides)
    run_pipeline(
        recipe,
        recipe_path=RECIPE,
        run_dir=directory,
        until=until,
        boot_nanoseconds=boot_seconds * 10**9,
    )


@pytest.fixture(scope="module")
def finished(nano_run):
    return nano_run


def outcome(directory: Path) -> dict:
    """Everything that must be the same whether or not a run was interrupted."""
    summary = json.loads((directory / "summary.json").read_text())["results"]
    for row in summary:
        del row["seconds"], row["usd"]
    steps = {
        path.parent.name: [
            (row["step"], computed(row["metrics"]), row["tokens"]) for row in read_jsonl(path)
        ]
        for path in directory.glob("stages/*/steps.jsonl")
    }
    samples = {p.parent.name: list(read_jsonl(p)) for p in directory.glob("stages/*/samples.jsonl")}
    weights = (directory / "export" / "model.safetensors").read_bytes()
    return {"summary": summary, "steps": steps, "samples": samples, "weights": weights}


def computed(metrics: dict) -> dict:
    """Without what was measured with a clock: how fast was sampled and synchronised."""
    measured = ("rollout/", "sync/")
    return {name: value for name, value in metrics.items() if not name.startswith(measured)}


def test_every_stage_is_in_the_summary_in_order(finished):
    rows = json.loads((finished / "summary.json").read_text())["results"]
    specialists = [f"probe-{subdomain}" for subdomain in SUBDOMAINS]
    names = ["base", "sft", *specialists, "tail-average", "fuse", "mgpo"]
    assert [row["stage"] for row in rows] == names
    for row in rows:
        assert row["benchmark"] == "held-out"
        assert (row["num_problems"], row["num_samples"]) == (8, 4)
        assert row["pass_at_1_ci"][0] <= row["pass_at_1"] <= row["pass_at_1_ci"][1]
        assert row["pass_at_1"] <= row["pass_at_k"]["2"]
        assert row["seconds"] > 0


def test_pass_at_1_is_the_share_of_correct_samples(finished):
    rows = {
        row["stage"]: row for row in json.loads((finished / "summary.json").read_text())["results"]
    }
    samples = list(read_jsonl(next(finished.glob("stages/*-evaluate/samples.jsonl"))))
    base = [row["correct"] for row in samples if row["key"] == "held-out--base"]
    assert len(base) == 8 * 4
    assert rows["base"]["pass_at_1"] == pytest.approx(sum(base) / len(base))


def test_the_run_directory_has_what_the_report_needs(finished):
    for name in (
        "recipe.yaml",
        "recipe.resolved.yaml",
        "manifest.json",
        "report.html",
    ):
        assert (finished / name).stat().st_size > 0, name
    steps = list(read_jsonl(next(finished.glob("stages/*-mgpo/steps.jsonl"))))
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    samples = list(read_jsonl(next(finished.glob("stages/*-mgpo/samples.jsonl"))))
    assert len(samples) == 4 * 4 * 4
    probe = json.loads(next(finished.glob("stages/*/probe.json")).read_text())
    assert [score["step"] for score in probe["checkpoints"]] == [2, 4, 6]
    for subdomain, step in probe["specialists"].items():
        best = max(score["pass_at_k"][subdomain] for score in probe["checkpoints"])
        chosen = next(score for score in probe["checkpoints"] if score["step"] == step)
        assert chosen["pass_at_k"][subdomain] == best


def test_the_ledger_holds_the_time_of_every_stage(finished):
    entries = read_ledger(finished / "ledger")
    assert {entry.stage for entry in entries} == {
        "base", "sft", "probe", "fuse", "mgpo", "evaluate", "export", "report"
    }  # fmt: skip
    generated = sum(entry.tokens["generated"] for entry in entries if entry.stage == "mgpo")
    samples = read_jsonl(next(finished.glob("stages/*-mgpo/samples.jsonl")))
    assert generated == sum(row["num_tokens"] for row in samples)


def test_the_fused_model_is_the_mean_of_the_specialists(finished):
    from safetensors.torch import load_file

    probe = json.loads(next(finished.glob("stages/*/probe.json")).read_text())
    sft = next(finished.glob("stages/*-sft/checkpoints"))
    sources = [
        load_file(sft / f"step-{probe['specialists'][subdomain]:06d}" / "model.safetensors")
        for subdomain in SUBDOMAINS
    ]
    fused = load_file(next(finished.glob("stages/*/checkpoints/fused")) / "model.safetensors")
    for name, tensor in fused.items():
        mean = torch.stack([source[name].double() for source in sources]).mean(dim=0)
        torch.testing.assert_close(tensor.double(), mean, rtol=0, atol=1e-7)


def test_the_export_loads_with_transformers_alone(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(finished / "export")
    model: Any = AutoModelForCausalLM.from_pretrained(finished / "export")
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "3+4=?"}], add_generation_prompt=True, return_tensors="pt"
    )
    output = model.generate(**prompt, max_new_tokens=3, do_sample=False)
    assert output.shape[1] > prompt["input_ids"].shape[1]


def test_a_finished_run_is_not_run_again(finished, tmp_path):
    directory = shutil.copytree(finished, tmp_path / "run")
    before = read_ledger(directory / "ledger")
    run(directory)
    after = read_ledger(directory / "ledger")
    assert after[: len(before)] == before
    assert [entry.what for entry in after[len(before) :]] == ["boot", "report"]


def test_another_recipe_in_the_same_directory_is_refused(finished):
    with pytest.raises(RecipeError, match="a run of a different recipe"):
        run(finished, "stages.mgpo.maxent_lambda=3")


def test_until_stops_after_the_stage_and_the_same_command_goes_on(finished, tmp_path):
    run(tmp_path, until="probe")
    assert not list(tmp_path.glob("stages/*-fuse"))
    run(tmp_path)
    assert outcome(tmp_path) == outcome(finished)


def count_writes(monkeypatch, fail_at: int | None) -> list[int]:
    """Counts appended and replaced files; raises Interrupted in place of write number `fail_at`.
    Beats from other threads, which come when they come, do not count.
    """
    counter = [0]

    def counted(function):
        def write(*arguments, **options):
            if threading.current_thread() is threading.main_thread():
                counter[0] += 1
                if counter[0] == fail_at:
                    raise Interrupted
            return function(*arguments, **options)

        return write

    monkeypatch.setattr(os, "replace", counted(os.replace))
    monkeypatch.setattr(vibelite.run_dir, "open", counted(open), raising=False)
    return counter


def test_interruption_at_any_write_changes_nothing(finished, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        counter = count_writes(patch, None)
        run(tmp_path / "counted")
    assert counter[0] > 50
    draw = random.Random(0)
    for number in draw.sample(range(1, counter[0] + 1), 5):
        directory = tmp_path / str(number)
        with pytest.MonkeyPatch.context() as patch:
            count_writes(patch, number)
            with pytest.raises(Interrupted):
                run(directory)
        run(directory)
        assert outcome(directory) == outcome(finished), f"interrupted at write {number}"


def test_a_budget_that_starting_has_spent_ends_the_run_before_its_data_are_loaded(tmp_path):
    limits = ["cost.usd_per_hour=3600", "budget.usd=2.5"]
    with pytest.raises(BudgetReached, match="budget of \\$2.5 ends here"):
        run(tmp_path, *limits, boot_seconds=2)
    assert not (tmp_path / "base").exists()
    assert [entry.what for entry in read_ledger(tmp_path / "ledger")] == ["boot", "report"]


def test_a_signal_saves_at_the_end_of_the_step_and_the_run_goes_on(finished, tmp_path, monkeypatch):
    directory = tmp_path / "run"
    record_step = Recorder.record_step

    def interrupt_after_step_3(self, step, metrics):
        record = record_step(self, step, metrics)
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return record

    monkeypatch.setattr(Recorder, "record_step", interrupt_after_step_3)
    stages = []
    for _ in range(2):
        with pytest.raises(StoppedBySignal):
            run(directory)
        (resume,) = directory.glob("stages/*/resume/step-000003")
        stages.append(resume.parts[-3])
    assert stages == ["00-sft", "03-mgpo"]
    monkeypatch.undo()
    run(directory)
    assert outcome(directory) == outcome(finished)

"""The benchmark of MGPO updates under a cap, on a tiny model without a GPU."""

import json
from dataclasses import asdict

import torch

from benchmarks.gpu_activations import TINY
from benchmarks.gpu_mgpo import CASES, completion_batch, make_trainer, measure, table
from benchmarks.row_report import exit_code, row_saver

CPU = torch.device("cpu")


def test_every_case_is_measured_or_named_as_left_out():
    rows = measure(TINY, tokens=(32, 48, 64), device=CPU)
    for case in CASES:
        own = [row for row in rows if asdict(case).items() <= row.items()]
        if case.optimizer == "adamw_8bit" and "left_out" in own[0]:
            continue
        lengths = [32, 64] if case.dtype == "float32" else [32, 48, 64]
        assert [row["tokens"] for row in own] == lengths
        assert all(row["gradient_seconds"] > 0 and row["peak_bytes"] > 0 for row in own)
    assert len(table(rows).splitlines()) == 2 + len(rows)


def test_an_update_trains_every_token_of_the_completion():
    trainer = make_trainer(TINY, CASES[-1], CPU)
    batch = completion_batch(trainer.policy, TINY["vocab_size"], 100, CPU)
    assert batch.num_tokens == 100 and int(batch.completion_mask.sum()) == 100 - 50


def test_what_does_not_fit_ends_its_case(monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("vibelite.stages.mgpo.accumulate_gradient", fail)
    rows = measure(TINY, tokens=(32, 64), cases=CASES[-1:], device=CPU)
    assert [row["out_of_memory"] for row in rows] == [True]
    assert "does not fit" in table(rows)


def test_a_case_that_fails_is_a_row_and_every_row_is_saved_at_once(monkeypatch, tmp_path, capsys):
    out = tmp_path / "rows.json"
    seen = []

    def save(rows):
        row_saver(out)(rows)
        seen.append(json.loads(out.read_text())["rows"])

    def fail(config, case, device):
        if case is CASES[0]:
            raise ValueError("no such instruction")
        return make(config, case, device)

    make = make_trainer
    monkeypatch.setattr("benchmarks.gpu_mgpo.make_trainer", fail)
    rows = measure(TINY, tokens=(32,), cases=(CASES[0], CASES[-1]), device=CPU, save=save)
    assert "no such instruction" in rows[0]["failed"] and rows[1]["tokens"] == 32
    assert seen[0] == rows[:1] and seen[-1] == rows
    assert exit_code(rows) == 1 and exit_code(rows[1:]) == 0
    assert "failed" in table(rows)
    assert "Traceback" in capsys.readouterr().err

"""The benchmark of MGPO updates under a cap, on a tiny model without a GPU."""

from dataclasses import asdict

import torch

from benchmarks.gpu_activations import TINY
from benchmarks.gpu_mgpo import CASES, completion_batch, make_trainer, measure, table

CPU = torch.device("cpu")


def test_every_case_is_measured_or_named_as_left_out():
    rows = measure(TINY, tokens=(32, 64), device=CPU)
    for case in CASES:
        own = [row for row in rows if asdict(case).items() <= row.items()]
        if case.optimizer == "adamw_8bit" and "left_out" in own[0]:
            continue
        assert [row["tokens"] for row in own] == [32, 64]
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

"""The measurements of memory and seconds of a 1.5B model, on a tiny model without a GPU."""

import json
from dataclasses import asdict

import torch

from benchmarks import gpu_activations, gpu_mgpo, gpu_optim
from benchmarks.gpu_activations import QWEN_1_5B, SETTINGS, TINY, TINY_TOKENS
from benchmarks.gpu_mgpo import CASES, completion_batch, make_trainer
from benchmarks.row_report import COLUMNS, finish, row_saver
from vibelite.planning.model_shape import shape_of_config

CPU = torch.device("cpu")


def test_the_model_is_qwen2_5_1_5b():
    assert shape_of_config(QWEN_1_5B).num_parameters == 1_543_569_408


def test_every_way_to_keep_activations_is_measured_and_offloading_compared():
    rows = gpu_activations.measure(TINY, tokens=TINY_TOKENS, tile_divisor=128, device=CPU)
    assert len(rows) == len(SETTINGS) * len(TINY_TOKENS)
    assert len([row for row in rows if "offload_overhead" in row]) == 2 * len(TINY_TOKENS)
    by_setting = {(r["activations"], r["mlp_tile_tokens"], r["tokens"]): r for r in rows}
    row, other = (by_setting[kind, 32, 128] for kind in ("checkpoint_offload", "checkpoint"))
    assert row["offload_overhead"] == row["seconds"] / other["seconds"] - 1
    assert other["peak_bytes"] < by_setting["keep", 0, 128]["peak_bytes"]


def test_every_case_of_a_cap_is_measured_or_named_as_left_out():
    rows = gpu_mgpo.measure(TINY, tokens=(32, 48, 64), device=CPU)
    for case in CASES:
        own = [row for row in rows if asdict(case).items() <= row.items()]
        if case.optimizer == "adamw_8bit" and "left_out" in own[0]:
            continue
        lengths = [32, 64] if case.dtype == "float32" else [32, 48, 64]
        assert [row["tokens"] for row in own] == lengths
        assert all(row["gradient_seconds"] > 0 and row["peak_bytes"] > 0 for row in own)


def test_an_update_trains_every_token_of_the_completion():
    trainer = make_trainer(TINY, CASES[-1], CPU)
    batch = completion_batch(trainer.policy, TINY["vocab_size"], 100, CPU)
    assert batch.num_tokens == 100 and int(batch.completion_mask.sum()) == 100 - 50


def test_what_does_not_fit_ends_its_case(monkeypatch, capsys):
    def fail(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("vibelite.stages.mgpo.accumulate_gradient", fail)
    rows = gpu_mgpo.measure(TINY, tokens=(32, 64), cases=CASES[-1:], device=CPU)
    assert [row["out_of_memory"] for row in rows] == [True]
    assert "does not fit" in capsys.readouterr().out


def test_a_case_that_fails_is_a_row_and_every_row_is_saved_at_once(monkeypatch, tmp_path, capsys):
    out = tmp_path / "rows.json"
    seen = []

    def save(rows):
        row_saver(out)(rows)
        seen.append(json.loads(out.read_text())["rows"])

    def fail(config, case, device):
        if case is CASES[0]:
            raise ValueError("no such instruction")
        return make_trainer(config, case, device)

    monkeypatch.setattr("benchmarks.gpu_mgpo.make_trainer", fail)
    cases = (CASES[0], CASES[-1])
    rows = gpu_mgpo.measure(TINY, tokens=(32,), cases=cases, device=CPU, save=save)
    assert "no such instruction" in rows[0]["failed"] and rows[1]["tokens"] == 32
    assert seen[0] == rows[:1] and seen[-1] == rows
    assert finish(COLUMNS["mgpo"], rows) == 1 and finish(COLUMNS["mgpo"], rows[1:]) == 0
    printed = capsys.readouterr()
    assert "failed" in printed.out and "Traceback" in printed.err


def test_bytes_a_parameter_that_exact_adamw_moves():
    assert gpu_optim.update_bytes("float32", "float32") == 28
    assert gpu_optim.update_bytes("bfloat16", "bfloat16") == 28
    assert gpu_optim.update_bytes("bfloat16", "float32") == 30


def test_every_optimizer_is_measured_or_named_as_left_out(capsys):
    rows = gpu_optim.measure(TINY, device=CPU, repeats=1)
    names = [(row["kind"], row["dtype"], row["gradient_dtype"]) for row in rows]
    assert names == list(gpu_optim.CONFIGURATIONS)
    for row in rows:
        if row["kind"] == "adamw_8bit_paged":
            assert "left_out" in row
        elif "8bit" not in row["kind"]:
            assert row["step_seconds"] > 0 and row["gradient_seconds"] > 0
            assert row["num_parameters"] == 40_960 + 288  # weights, and norms with biases
    finish(COLUMNS["optim"], rows)
    assert "left out: adamw_8bit_paged, bfloat16, bfloat16: " in capsys.readouterr().out

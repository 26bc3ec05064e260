"""Claims that only a GPU can show: long launches, 64-bit offsets, batch invariance, streams."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.problems import (
    Backend,
    Case,
    exact_results,
    gradient_bound,
    make_case,
    results,
)
from vibelite.kernels import HeadCall, linear_logprobs, linear_token_loss

pytestmark = pytest.mark.gpu
TRITON = Backend("triton", "cuda")


def bf16_case(num: int, width: int, vocab: int) -> Case:
    return make_case(num, width, vocab, dtype=torch.bfloat16, device="cuda")


def call_of(case: Case, rows: slice = slice(None)) -> HeadCall:
    return HeadCall(case.hidden[rows], case.weight, case.targets[rows])


def test_a_row_gives_the_same_bits_in_any_batch() -> None:
    case = bf16_case(700, 576, 50257)
    everything, _ = linear_logprobs(call_of(case))
    for rows in (slice(0, 1), slice(77, 78), slice(100, 650)):
        part, _ = linear_logprobs(call_of(case, rows))
        assert torch.equal(part, everything[rows])


def test_more_rows_than_a_grid_dimension_of_65535() -> None:
    case = bf16_case(70_000, 16, 40)
    found, expected = results(case, TRITON), exact_results(case)
    for name in ("logprobs", "loss_logprobs"):
        assert (found[name] - expected[name]).abs().max() < 3e-5
    error = (found["grad_weight"].double() - expected["grad_weight"]).norm()
    assert error < gradient_bound(torch.bfloat16, TRITON) * expected["grad_weight"].norm()


def test_more_logits_than_2_to_the_31() -> None:
    case = bf16_case(15_000, 64, 151_936)
    found = results(case, TRITON)
    rows = slice(14_900, 15_000)
    logits = case.hidden[rows].double() @ case.weight.double().T
    expected = torch.log_softmax(logits, -1).gather(1, case.targets[rows, None]).squeeze(1)
    for name in ("logprobs", "loss_logprobs"):
        assert (found[name][rows] - expected).abs().max() < 3e-5
    assert torch.isfinite(found["grad_weight"]).all()


def test_a_target_outside_the_vocabulary_is_nan_not_a_number() -> None:
    case = bf16_case(5, 64, 300)
    case.targets[2] = 300
    logprobs, _ = linear_logprobs(call_of(case))
    assert logprobs.isnan().tolist() == [False, False, True, False, False]


def test_a_frozen_weight_allocates_nothing_of_its_size() -> None:
    case = bf16_case(64, 512, 50_000)
    case.hidden.requires_grad_()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    linear_token_loss(call_of(case), lambda logprobs, entropy, rows: logprobs).loss.backward()
    extra = torch.cuda.max_memory_allocated() - before
    assert extra < case.weight.numel() * case.weight.element_size()


def test_other_streams_work() -> None:
    case = bf16_case(300, 128, 5000)
    expected = results(case, TRITON)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = results(case, TRITON)
    stream.synchronize()
    assert all(torch.equal(found[name], expected[name]) for name in expected)

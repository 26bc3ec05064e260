"""Claims about values: every implementation against the float64 definition, on hard inputs.

The same tests run for the chunked head on a CPU, for Triton on its interpreter (in a child process)
and, marked gpu, for both on a GPU.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests.kernels.problems import (
    CHUNKED,
    Backend,
    assert_matches_float64,
    exact_results,
    interpreted,
    logits_case,
    make_case,
    on_device,
    results,
)
from vibelite.kernels import HeadCall, linear_logprobs


@pytest.mark.parametrize(
    "vocab", [*(pytest.param(size, marks=interpreted) for size in (1, 17, 300)), 1200, 50257]
)
def test_no_vocabulary_size_adds_phantom_columns(vocab: int, backend: Backend) -> None:
    case = make_case(5, 16, vocab, device=backend.device)
    # Logits around -5: a column of zeros would take almost all the probability.
    case.weight[:, 0], case.hidden[:, 0] = -5.0, 1.0
    assert_matches_float64(case, backend)


@pytest.mark.parametrize("num", [1, 2, 127, 128, 129])
def test_row_counts_around_a_tile_match(num: int, backend: Backend) -> None:
    assert_matches_float64(make_case(num, 24, 130, device=backend.device), backend)


@interpreted
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "softcap": 5.0}], ids=["", "capped"])
def test_bfloat16_inputs_match(options: dict, backend: Backend) -> None:
    case = make_case(70, 64, 300, dtype=torch.bfloat16, device=backend.device, **options)
    assert_matches_float64(case, backend)


@pytest.mark.parametrize("backend", CHUNKED, indirect=True, ids=str)
def test_float16_inputs_match_whatever_the_upstream_gradients_range(backend: Backend) -> None:
    options: dict = {"temperature": 0.7, "softcap": 5.0}
    case = make_case(70, 64, 300, dtype=torch.float16, device=backend.device, **options)
    assert_matches_float64(case, backend)
    plain = results(case, backend)
    for factor in (2.0**12, 2.0**-18):
        upstream = {"grad_logprobs": case.grad_logprobs, "grad_entropy": case.grad_entropy}
        other = replace(case, **{name: factor * value for name, value in upstream.items()})
        scaled = results(other, backend)
        for name in ("grad_hidden", "grad_weight"):
            # A gradient itself is a float16, whose smallest step is 6e-8.
            found, step = scaled[name].double() / factor, 6e-8 / factor
            torch.testing.assert_close(found, plain[name].double(), rtol=2e-3, atol=1e-6 + step)


@interpreted
def test_widths_without_aligned_rows_match(backend: Backend) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert_matches_float64(make_case(33, 41, 301, dtype=dtype, device=backend.device), backend)


def test_temperature_near_zero_matches_to_the_logits_precision(backend: Backend) -> None:
    case = make_case(40, 16, 200, device=backend.device, temperature=1e-3)
    # Logits of about 6000 have a spacing of 5e-4 in float32.
    expected, found = exact_results(case), results(case, backend)
    for name in ("logprobs", "entropy"):
        error = (found[name] - expected[name]).abs().max()
        assert error < 8 * 2**-24 * 6000, (name, error)
    assert torch.isfinite(found["grad_weight"]).all()


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bias_and_softcap_match(dtype: torch.dtype, backend: Backend) -> None:
    bias = torch.randn(300, generator=torch.Generator().manual_seed(1)).to(dtype)
    for softcap in (None, 3.0):
        case = make_case(33, 16, 300, dtype=dtype, bias=bias, softcap=softcap)
        assert_matches_float64(on_device(case, backend.device), backend)


RANDOM = torch.randn(4, 700, generator=torch.Generator().manual_seed(3))
SPIKE = torch.where(torch.arange(300) == 7, 1e4, 0.0).repeat(3, 1)
EXTREMES = torch.where(torch.arange(300) % 2 == 0, 1e4, -1e4)


@interpreted
@pytest.mark.parametrize(
    ("logits", "targets", "bound"),
    [
        # A number of 1e4 has a spacing of 1e-3 in float32, one of 1e3 of 6e-5.
        (torch.full((3, 1200), 0.0), [0, 5, 1199], 2e-5),
        (torch.full((3, 1200), -200.0), [0, 5, 1199], 2e-5),
        (torch.full((3, 1200), 1e4), [0, 5, 1199], 2e-3),
        (SPIKE, [7, 7, 8], 2e-3),
        (RANDOM + 1000, [0, 1, 2, 699], 2e-4),
        (RANDOM - 1000, [0, 1, 2, 699], 2e-4),
        (torch.stack([EXTREMES, -EXTREMES]), [0, 1], 2e-3),
        (torch.linspace(-400.0, 0.0, 600).repeat(2, 1), [599, 0], 3e-5),  # probabilities underflow
    ],
    ids=["zero", "low", "high", "spike", "up", "down", "extremes", "underflow"],
)
def test_logits_of_any_size_match(
    logits: torch.Tensor, targets: list[int], bound: float, backend: Backend
) -> None:
    case = on_device(logits_case(logits, targets), backend.device)
    expected, found = exact_results(case), results(case, backend)
    for name, want in expected.items():
        assert torch.isfinite(found[name]).all()
        if name != "grad_hidden":  # it cancels to 0
            torch.testing.assert_close(found[name].double(), want, atol=bound, rtol=1e-5)


@interpreted
def test_banned_columns_have_no_probability(backend: Backend) -> None:
    bias = torch.zeros(300)
    bias[64:192] = -torch.inf  # at least one whole tile of every implementation on the CPU
    bias[3] = -torch.inf
    case = make_case(20, 16, 300, bias=bias)
    case.targets = torch.tensor([0, 1, 2, 63, 192, 299] * 3 + [4, 5])
    assert_matches_float64(on_device(case, backend.device), backend)


@interpreted
def test_a_banned_target_has_log_prob_minus_infinity_and_finite_gradients(
    backend: Backend,
) -> None:
    bias = torch.zeros(300)
    bias[5] = -torch.inf
    case = make_case(4, 16, 300, bias=bias)
    case.targets = torch.tensor([5, 0, 5, 1])
    expected = exact_results(case)
    found = results(on_device(case, backend.device), backend)
    assert found["logprobs"][[0, 2]].isneginf().all()
    assert found["logprobs"][[1, 3]].isfinite().all()
    for name in ("grad_hidden", "grad_weight"):
        torch.testing.assert_close(found[name].cpu().double(), expected[name], atol=1e-5, rtol=1e-4)


@interpreted
def test_a_row_without_any_column_is_nan_and_spoils_no_other(backend: Backend) -> None:
    case = make_case(6, 16, 40, device=backend.device)
    case.hidden[2] = torch.nan
    found = results(case, backend)
    expected_nan = torch.tensor([False, False, True, False, False, False], device=backend.device)
    assert torch.equal(found["logprobs"].isnan(), expected_nan)
    assert torch.equal(found["entropy"].isnan(), expected_nan)
    banned = make_case(6, 16, 40, bias=torch.full((40,), -torch.inf))
    outputs = results(on_device(banned, backend.device), backend)
    assert outputs["entropy"].isnan().all()


@interpreted
def test_gradient_at_an_almost_certain_target_is_not_rounded_away(backend: Backend) -> None:
    # 1 - p_y = 3.3e-4, where the nearest bf16 to p_y is 1.
    case = logits_case(torch.tensor([[8.0, 0.0]]), [0])
    case.hidden, case.weight = case.hidden.bfloat16(), case.weight.bfloat16()
    case.grad_logprobs, case.grad_entropy = torch.ones(1), torch.zeros(1)
    found = results(on_device(case, backend.device), backend)["grad_weight"][:, 0].double().cpu()
    q = 1 / (1 + math.exp(8))
    torch.testing.assert_close(found, torch.tensor([q, -q], dtype=torch.float64), rtol=8e-3, atol=0)


@interpreted
def test_targets_may_be_int32_and_at_either_end(backend: Backend) -> None:
    case = make_case(6, 16, 1201, device=backend.device)
    case.targets = torch.tensor([0, 1200, 63, 64, 1199, 600], device=backend.device)
    wide = results(case, backend)
    case.targets = case.targets.int()
    narrow = results(case, backend)
    assert all(torch.equal(wide[name], narrow[name]) for name in wide)
    assert_matches_float64(case, backend)


@interpreted
def test_rows_of_any_stride_match(backend: Backend) -> None:
    case = make_case(30, 24, 200, device=backend.device)
    expected = exact_results(case)
    padded = torch.zeros(30, 26, device=backend.device)
    padded[:, 1:25] = case.hidden
    transposed = case.weight.T.contiguous().T
    strided_targets = torch.stack((case.targets, case.targets), 1)[:, 0]
    strided = HeadCall(padded[:, 1:25], transposed, strided_targets)
    logprobs = linear_logprobs(strided, backend.impl)[0].double()
    torch.testing.assert_close(logprobs, expected["logprobs"], atol=3e-5, rtol=0)
    row = HeadCall(case.hidden[:1].expand(5, 24), case.weight, case.targets[:1].expand(5))
    repeated = linear_logprobs(row, backend.impl)[0].double()
    torch.testing.assert_close(repeated, expected["logprobs"][:1].expand(5), atol=3e-5, rtol=0)

"""The loss inside the head: its value, its outputs, which gradients flow."""

# pyright: reportOptionalMemberAccess=false, reportArgumentType=false

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.kernels.problems import (
    INTERPRETED,
    Backend,
    Case,
    allowed_errors,
    differentiable,
    exact_results,
    interpreted,
    linear_loss,
    make_case,
    results,
)
from tests.kernels.reference import reference_logprobs
from vibelite.algorithms.policy_loss import LossInputs, LossSettings, policy_loss
from vibelite.kernels import HeadCall, PerTokenLoss, chunked, linear_logprobs, linear_token_loss


def training_loss(case: Case) -> PerTokenLoss:
    """The loss of reinforcement learning, with random advantages, weights and old log-probs."""
    generator = torch.Generator().manual_seed(4)
    advantages = torch.randn(len(case.targets), generator=generator).to(case.hidden.device)
    weights, old = torch.rand(2, len(case.targets), generator=generator).to(case.hidden.device)
    settings = LossSettings(entropy_coef=0.1, kl_coef=0.01)

    def per_token(logprobs: torch.Tensor, entropy: torch.Tensor, rows: slice) -> torch.Tensor:
        before = old[rows] - 5.0
        inputs = LossInputs(advantages[rows], weights[rows], before, ref_logprobs=before)
        return policy_loss(logprobs, entropy, inputs, settings)

    return per_token


def assert_one_pass_matches(case: Case, backend: Backend) -> None:
    """Three times the loss and its gradients, against the definition in float64."""
    per_token = training_loss(case)
    exact, exact_leaves = differentiable(case, torch.float64)
    outputs = reference_logprobs(exact)
    loss = per_token(*outputs, slice(0, len(case.targets))).sum()
    expected = torch.autograd.grad(3 * loss, list(exact_leaves.values()))
    call, leaves = differentiable(case)
    output = linear_token_loss(call, per_token, backend.impl)
    assert not output.logprobs.requires_grad
    assert not output.entropy.requires_grad
    torch.testing.assert_close(output.loss.detach().double(), loss.detach(), rtol=2e-5, atol=2e-5)
    for got, want in zip((output.logprobs, output.entropy), outputs, strict=True):
        assert (got.double() - want).abs().max() <= 3e-5
    found = torch.autograd.grad(3 * output.loss, list(leaves.values()))
    allowed = allowed_errors(case, backend, per_token, factor=3)
    for name, got, want in zip(leaves, found, expected, strict=True):
        error = (got.double() - want).norm()
        assert error <= allowed[name], (name, error, allowed[name])


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "softcap": 5.0}], ids=["", "capped"])
def test_one_pass_equals_the_definition(
    dtype: torch.dtype, options: dict, backend: Backend
) -> None:
    assert_one_pass_matches(
        make_case(70, 64, 301, dtype=dtype, device=backend.device, **options), backend
    )


@interpreted
@pytest.mark.parametrize("has_bias", [False, True])
def test_one_pass_in_several_chunks_of_rows_equals_one(
    has_bias: bool, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case(300, 32, 150, dtype=torch.bfloat16, device=backend.device)
    if has_bias:
        case.options["bias"] = torch.linspace(-2, 2, 150, device=backend.device).bfloat16()
    if backend.impl == "triton":
        from vibelite.kernels import triton_head

        monkeypatch.setattr(triton_head, "STORE_BYTES", 128 * 256 * 2)
    elif not backend.has_tiny_tiles:
        for budget in (chunked.ROW_ELEMENTS, chunked.BLOCK_ELEMENTS):
            monkeypatch.setitem(budget, backend.device, 64 * 150)
    assert_one_pass_matches(case, backend)


@pytest.mark.skipif(INTERPRETED, reason="in float64 there is no kernel")
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_gradients_of_both_outputs_are_finite_differences(softcap: float | None) -> None:
    case = make_case(5, 4, 11)
    tensors = [case.hidden.double(), case.weight.double(), torch.linspace(-1, 1, 11).double()]

    def loss(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        call = HeadCall(hidden, weight, case.targets, 0.7, bias, softcap)
        return linear_token_loss(call, lambda lp, en, rows: lp * lp + lp * en, "chunked").loss

    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    gradients = torch.autograd.grad(loss(*leaves), leaves)
    for tensor, gradient in zip(tensors, gradients, strict=True):
        for value, found in zip(tensor.view(-1), gradient.view(-1), strict=True):
            value += 1e-5
            above = loss(*tensors)
            value -= 2e-5
            difference = (above - loss(*tensors)) / 2e-5
            value += 1e-5
            torch.testing.assert_close(found, difference, rtol=1e-6, atol=1e-8)


@interpreted
def test_a_zero_stride_upstream_gradient_is_read_right(backend: Backend) -> None:
    case = make_case(33, 16, 200, dtype=torch.bfloat16, device=backend.device)
    ones = torch.ones(33, device=backend.device)
    gradients = []
    # The gradient of a sum of log-probs is one number for all rows, expanded.
    for loss in (lambda lp, en, rows: lp, lambda lp, en, rows: lp * ones[rows]):
        call, leaves = differentiable(case)
        output = linear_token_loss(call, loss, backend.impl)
        gradients.append(torch.autograd.grad(output.loss, list(leaves.values())))
    for expanded, plain in zip(*gradients, strict=True):
        assert plain.norm() > 0
        assert torch.equal(expanded, plain)


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_needed_gradients_are_computed(dtype: torch.dtype, backend: Backend) -> None:
    bias = torch.linspace(-1, 1, 200)
    case = make_case(33, 16, 200, dtype=dtype, device=backend.device)
    case.options["bias"] = bias.to(dtype).to(backend.device)
    full = results(case, backend)
    for needed in ("hidden", "weight", "bias"):
        call, leaves = differentiable(case)
        for name, leaf in leaves.items():
            leaf.requires_grad_(name == needed)
        output = linear_token_loss(
            call,
            lambda lp, en, rows: case.grad_logprobs[rows] * lp + case.grad_entropy[rows] * en,
            backend.impl,
        )
        output.loss.backward()
        assert [name for name, leaf in leaves.items() if leaf.grad is not None] == [needed]
        want = full[f"grad_{needed}"]
        torch.testing.assert_close(leaves[needed].grad, want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("live", [0.0, 0.3, 1.0, "logprobs", "entropy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_and_rows_without_upstream_gradient_change_nothing_else(
    dtype: torch.dtype, live: float | str, backend: Backend
) -> None:
    case = make_case(70, 16, 300, dtype=dtype, device=backend.device)
    share = live if isinstance(live, float) else 0.0
    dead = torch.rand(70, generator=torch.Generator().manual_seed(2)) >= share
    dead = dead.to(backend.device)
    if live != "logprobs":
        case.grad_logprobs[dead] = 0.0
    if live != "entropy":
        case.grad_entropy[dead] = 0.0
    expected, found = exact_results(case), results(case, backend)
    if isinstance(live, float):
        assert (found["grad_hidden"][dead] == 0).all()
    allowed = allowed_errors(case, backend, linear_loss(case))
    for name in ("hidden", "weight"):
        error = (found[f"grad_{name}"].double() - expected[f"grad_{name}"]).norm()
        assert error <= allowed[name], (name, error, allowed[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_call_gives_the_same_bits(dtype: torch.dtype, backend: Backend) -> None:
    case = make_case(70, 64, 300, dtype=dtype, device=backend.device)
    first, second = results(case, backend), results(case, backend)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_mixed_dtypes_are_promoted_and_gradients_come_back_in_their_own(backend: Backend) -> None:
    case = make_case(20, 16, 100, device=backend.device)
    call, leaves = differentiable(replace(case, hidden=case.hidden.bfloat16()))
    expected, _ = reference_logprobs(replace(call, hidden=call.hidden.float()))
    output = linear_token_loss(call, lambda lp, en, rows: lp, backend.impl)
    for logprobs in (output.logprobs, linear_logprobs(call, backend.impl)[0]):
        torch.testing.assert_close(logprobs, expected.detach(), atol=3e-5, rtol=0)
    output.loss.backward()
    assert (leaves["hidden"].grad.dtype, leaves["weight"].grad.dtype) == (
        torch.bfloat16,
        torch.float32,
    )


def test_without_gradients_only_the_values_are_computed(backend: Backend) -> None:
    case = make_case(20, 16, 100, dtype=torch.bfloat16, device=backend.device)
    call = HeadCall(case.hidden, case.weight, case.targets)
    output = linear_token_loss(call, lambda lp, en, rows: -lp, backend.impl)
    logprobs, _ = reference_logprobs(call)
    assert not output.loss.requires_grad
    torch.testing.assert_close(output.loss, -logprobs.sum(), rtol=1e-5, atol=0)
    with_gradients, _ = differentiable(case)
    assert not linear_logprobs(with_gradients, backend.impl)[0].requires_grad


@interpreted
def test_no_rows_give_loss_zero_and_zero_gradients(backend: Backend) -> None:
    case = make_case(0, 16, 100, dtype=torch.bfloat16, device=backend.device)
    call, leaves = differentiable(case)
    output = linear_token_loss(call, lambda lp, en, rows: -lp, backend.impl)
    output.loss.backward()
    assert output.loss.item() == 0.0
    assert output.logprobs.shape == linear_logprobs(call, backend.impl)[1].shape == (0,)
    assert leaves["hidden"].grad.shape == (0, 16)
    assert torch.equal(leaves["weight"].grad, torch.zeros_like(call.weight))


def test_misuse_is_refused(backend: Backend) -> None:
    call, _ = differentiable(make_case(20, 16, 100, device=backend.device))
    with pytest.raises(ValueError, match="one loss per row"):
        linear_token_loss(call, lambda lp, en, rows: lp.repeat(2), backend.impl)
    output = linear_token_loss(call, lambda lp, en, rows: -lp, backend.impl)
    output.loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once only"):
        output.loss.backward()

"""The one-pass loss equals the two-pass one: value, outputs, gradients."""

# pyright: reportOptionalMemberAccess=false, reportArgumentType=false

from __future__ import annotations

import pytest
import torch

from tests.kernels.problems import BACKENDS, Backend, Case, gradient_bound, make_case
from vibelite.algorithms.policy_loss import LossInputs, LossSettings, policy_loss
from vibelite.kernels import linear_logprobs, linear_token_loss

each_backend = pytest.mark.parametrize("backend", BACKENDS)


def clipped_loss(case: Case):
    """A clipped policy loss with an entropy bonus; a third of the rows has advantage 0."""
    generator = torch.Generator().manual_seed(4)
    num, device = len(case.targets), case.hidden.device
    advantages = torch.randn(num, generator=generator).to(device)
    advantages[::3] = 0.0
    old = (-5.0 + torch.rand(num, generator=generator)).to(device)

    def per_token(logprobs: torch.Tensor, entropy: torch.Tensor, rows: slice) -> torch.Tensor:
        ratio = torch.exp((logprobs - old[rows]).clamp(-3, 3))
        gain = torch.minimum(ratio * advantages[rows], ratio.clamp(0.8, 1.2) * advantages[rows])
        return -gain - 0.1 * entropy * (advantages[rows] != 0)

    return per_token


def two_pass(case: Case, per_token) -> dict[str, torch.Tensor]:
    hidden, weight = (t.double().requires_grad_() for t in (case.hidden, case.weight))
    logprobs, entropy = linear_logprobs(
        hidden, weight, case.targets, impl="reference", **case.options
    )
    losses = per_token(logprobs, entropy, slice(0, len(logprobs)))
    loss = losses[case.targets != -100].sum()
    grads = torch.autograd.grad(3 * loss, (hidden, weight))
    return {
        "loss": loss.detach(),
        "logprobs": logprobs.detach(),
        "entropy": entropy.detach(),
        "grad_hidden": grads[0],
        "grad_weight": grads[1],
    }


def assert_one_pass_matches(case: Case, backend: Backend) -> None:
    per_token = clipped_loss(case)
    expected = two_pass(case, per_token)
    hidden, weight = (t.clone().requires_grad_() for t in (case.hidden, case.weight))
    output = linear_token_loss(
        hidden, weight, case.targets, per_token, impl=backend[0], **case.options
    )
    assert not output.logprobs.requires_grad
    assert not output.entropy.requires_grad
    (3 * output.loss).backward()
    torch.testing.assert_close(output.loss.double(), expected["loss"], rtol=2e-5, atol=2e-5)
    for name in ("logprobs", "entropy"):
        error = (getattr(output, name).double() - expected[name]).abs().max()
        assert error <= 3e-5, (name, error)
    bound = gradient_bound(case.hidden.dtype, backend)
    if case.hidden.dtype == torch.bfloat16:
        bound *= 1.3  # exp(z) is rounded as well
    for tensor, name in ((hidden, "grad_hidden"), (weight, "grad_weight")):
        error = (tensor.grad.double() - expected[name]).norm()
        assert error <= bound * expected[name].norm(), (name, error / expected[name].norm())


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "softcap": 5.0}], ids=["", "capped"])
def test_one_pass_equals_two_passes(dtype: torch.dtype, options: dict, backend: Backend) -> None:
    case = make_case(70, 64, 301, dtype=dtype, device=backend[1], **options)
    case.targets[5:9] = -100
    assert_one_pass_matches(case, backend)


@each_backend
def test_one_pass_in_several_chunks_of_rows_equals_one(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case(300, 32, 150, dtype=torch.bfloat16, device=backend[1])
    if backend[0] == "chunked":
        from vibelite.kernels import chunked

        for budget in (chunked.ROW_ELEMENTS, chunked.BLOCK_ELEMENTS):
            monkeypatch.setitem(budget, backend[1], 64 * 150)
    else:
        from vibelite.kernels import triton_loss

        monkeypatch.setattr(triton_loss, "STORE_BYTES", 128 * 256 * 2)
    assert_one_pass_matches(case, backend)


@each_backend
def test_the_policy_loss_of_training_runs_in_one_pass(backend: Backend) -> None:
    case = make_case(40, 16, 200, device=backend[1])
    weights = torch.rand(40, generator=torch.Generator().manual_seed(1)).to(backend[1])
    old = torch.full((40,), -5.3, device=backend[1])
    settings = LossSettings(entropy_coef=0.01, kl_coef=0.1)

    def loss_of(logprobs: torch.Tensor, entropy: torch.Tensor, rows: slice) -> torch.Tensor:
        inputs = LossInputs(
            case.grad_logprobs[rows], weights[rows], old[rows], ref_logprobs=old[rows]
        )
        return policy_loss(logprobs, entropy, inputs, settings)

    hidden, weight = (t.clone().requires_grad_() for t in (case.hidden, case.weight))
    logprobs, entropy = linear_logprobs(hidden, weight, case.targets, impl="reference")
    expected = torch.autograd.grad(loss_of(logprobs, entropy, slice(0, 40)).sum(), (hidden, weight))
    output = linear_token_loss(hidden, weight, case.targets, loss_of, impl=backend[0])
    found = torch.autograd.grad(output.loss, (hidden, weight))
    for got, want in zip(found, expected, strict=True):
        assert (got - want).norm() <= 1e-5 * want.norm()


@each_backend
def test_without_gradients_only_the_values_are_computed(backend: Backend) -> None:
    case = make_case(20, 16, 100, dtype=torch.bfloat16, device=backend[1])
    with torch.no_grad():
        output = linear_token_loss(
            case.hidden, case.weight, case.targets, lambda lp, en, rows: -lp, impl=backend[0]
        )
    logprobs, _ = linear_logprobs(case.hidden, case.weight, case.targets, impl="reference")
    assert not output.loss.requires_grad
    torch.testing.assert_close(output.loss, -logprobs.sum(), rtol=1e-5, atol=0)


@each_backend
def test_no_rows_give_loss_zero_and_zero_gradients(backend: Backend) -> None:
    case = make_case(0, 16, 100, dtype=torch.bfloat16, device=backend[1])
    weight = case.weight.requires_grad_()
    output = linear_token_loss(
        case.hidden, weight, case.targets, lambda lp, en, rows: -lp, impl=backend[0]
    )
    output.loss.backward()
    assert output.loss.item() == 0.0
    assert torch.equal(weight.grad, torch.zeros_like(weight))


@each_backend
def test_misuse_is_refused(backend: Backend) -> None:
    case = make_case(20, 16, 100, device=backend[1])
    hidden = case.hidden.requires_grad_()
    with pytest.raises(ValueError, match="one loss per row"):
        linear_token_loss(
            hidden, case.weight, case.targets, lambda lp, en, rows: lp[:3], impl=backend[0]
        )
    output = linear_token_loss(
        hidden, case.weight, case.targets, lambda lp, en, rows: -lp, impl=backend[0]
    )
    output.loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once only"):
        output.loss.backward()

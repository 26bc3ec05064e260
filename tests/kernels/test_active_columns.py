"""grad_tol: every gradient within its share of the exact one, whatever the distributions are."""

# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportOptionalOperand=false

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.kernels.problems import (
    BACKENDS,
    INTERPRETED,
    Backend,
    Case,
    gradient_bound,
    logits_case,
    make_case,
    on_device,
    results,
)
from vibelite.kernels import active_columns, chunked, linear_logprobs, linear_token_loss
from vibelite.kernels.active_columns import Activity, Call
from vibelite.kernels.problem import Gradients, Problem, Wanted

each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_tolerance = pytest.mark.parametrize("grad_tol", [1e-1, 1e-2, 1e-3, 1e-4])
only_chunked = pytest.mark.skipif(INTERPRETED, reason="looks inside the chunked head")


def fitting(case: Case, backend: Backend) -> Case:
    """The case where the backend runs; in float64 if it can, so that only grad_tol is left."""
    dtype = torch.float32 if backend[0] == "triton" else torch.float64
    case = replace(case, hidden=case.hidden.to(dtype), weight=case.weight.to(dtype))
    return on_device(case, backend[1])


def rounding(case: Case, backend: Backend) -> float:
    dtype = case.hidden.dtype
    return 1e-12 if dtype == torch.float64 else gradient_bound(dtype, backend)


def assert_within(case: Case, backend: Backend, grad_tol: float) -> None:
    expected = results(case, "reference", exact=True)
    tolerant = replace(case, options=case.options | {"grad_tol": grad_tol})
    found = results(tolerant, backend[0])
    for name in expected.keys() - {"logprobs", "entropy"}:
        error = (found[name].double() - expected[name]).norm()
        bound = (grad_tol + rounding(case, backend)) * expected[name].norm() + 1e-12
        assert error <= bound, (name, error / expected[name].norm())


def run_backward(case: Case, grad_tol: float) -> tuple[Gradients, Activity]:
    """The chunked head's gradients, and how many columns they took."""
    problem = Problem(case.hidden, case.weight, case.targets)
    upstream = case.grad_logprobs.to(case.hidden.dtype), case.grad_entropy.to(case.hidden.dtype)
    call = Call(chunked, problem, chunked.forward(problem), upstream)
    return active_columns.backward(call, Wanted(), grad_tol)


def error_of(case: Case, gradients: Gradients) -> float:
    expected = results(case, "reference", exact=True)
    return max(
        float((found.double() - expected[name]).norm() / expected[name].norm())
        for found, name in ((gradients.hidden, "grad_hidden"), (gradients.weight, "grad_weight"))
    )


@each_backend
@each_tolerance
@pytest.mark.parametrize("scale", [0.01, 2.0, 8.0], ids=["flat", "middling", "peaked"])
def test_gradients_stay_within_the_tolerance(
    scale: float, grad_tol: float, backend: Backend
) -> None:
    assert_within(fitting(make_case(10, 16, 400, scale=scale), backend), backend, grad_tol)


@each_backend
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.3},
        {"temperature": 5.0, "softcap": 4.0},
        {"temperature": torch.linspace(0.2, 3.0, 12)},
        {"bias": torch.linspace(-6.0, 3.0, 300)},
        {"bias": torch.linspace(-6.0, 3.0, 300).masked_fill(torch.arange(300) % 3 == 1, -math.inf)},
    ],
    ids=["temperature", "softcap", "row-temperature", "bias", "banned"],
)
def test_every_option_stays_within_the_tolerance(options: dict, backend: Backend) -> None:
    case = make_case(12, 16, 300, scale=4.0, **options)
    case.targets[:] = case.targets // 3 * 3  # none of the banned ones
    assert_within(fitting(case, backend), backend, 1e-2)


@each_backend
@pytest.mark.parametrize("used", ["logprobs", "entropy"])
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_gradients_of_one_output_alone_stay_within_the_tolerance(
    scale: float, used: str, backend: Backend
) -> None:
    case = make_case(12, 16, 300, scale=scale)
    unused = "grad_entropy" if used == "logprobs" else "grad_logprobs"
    case = replace(case, **{unused: torch.zeros(12)})
    assert_within(fitting(case, backend), backend, 1e-2)


@each_backend
@each_tolerance
@pytest.mark.parametrize("decay", [0.0, 0.01, 0.1])
def test_mass_that_hides_in_many_small_columns_is_not_lost(
    decay: float, grad_tol: float, backend: Backend
) -> None:
    """Half of each row's mass lies in columns of at most 0.3 %, whose weights all point one way:
    each column could be left out, all of them together could not.
    """
    num, vocab = 4, 401
    tail = -decay * torch.arange(vocab - 1.0)
    logits = torch.cat([torch.logsumexp(tail, 0)[None], tail]).repeat(num, 1)
    case = logits_case(logits, [0] * num)
    # A shared direction, in which the logits do not lie.
    hidden = torch.cat([case.hidden, torch.zeros(num, 1)], 1)
    weight = torch.cat([case.weight, 5.0 * (torch.arange(vocab) > 0)[:, None]], 1)
    case = replace(case, hidden=hidden, weight=weight, grad_entropy=torch.zeros(num))
    assert_within(fitting(case, backend), backend, grad_tol)


@each_backend
def test_rows_without_upstream_gradient_take_no_columns_and_get_zero(backend: Backend) -> None:
    case = fitting(make_case(14, 16, 300, scale=6.0), backend)
    dead = torch.arange(14) % 2 == 0
    case.grad_logprobs[dead], case.grad_entropy[dead] = 0.0, 0.0
    assert_within(case, backend, 1e-2)
    tolerant = replace(case, options={"grad_tol": 1e-2})
    assert (results(tolerant, backend[0])["grad_hidden"][dead] == 0).all()
    case.grad_logprobs[:], case.grad_entropy[:] = 0.0, 0.0
    for name, gradient in results(replace(case, options={"grad_tol": 1e-2}), backend[0]).items():
        assert not name.startswith("grad") or not gradient.any()


@only_chunked
def test_equal_logits_leave_no_entropy_gradient_to_approximate() -> None:
    case = make_case(20, 8, 256, dtype=torch.float64)
    case = replace(case, weight=torch.ones_like(case.weight), grad_logprobs=torch.zeros(20))
    gradients, _ = run_backward(case, 1e-2)
    assert gradients.hidden.norm() <= 1e-12
    assert gradients.weight.norm() <= 1e-12


@each_backend
def test_tied_embeddings_stay_within_the_tolerance(backend: Backend) -> None:
    case = fitting(make_case(12, 16, 300, scale=4.0), backend)
    ids = case.targets.roll(1)

    def loss(weight: torch.Tensor, **options: Any) -> torch.Tensor:
        outputs = linear_logprobs(weight[ids], weight, case.targets, temperature=0.5, **options)
        return (outputs[0] * case.grad_logprobs).sum() + (outputs[1] * case.grad_entropy).sum()

    weight = case.weight.requires_grad_()
    (expected,) = torch.autograd.grad(loss(weight, impl="reference"), weight)
    weight.grad = torch.ones_like(weight)
    loss(weight, impl=backend[0], grad_tol=1e-3, weight_grad_out=weight.grad).backward()
    # Both parts are bounded by their own norms, at most the sum's here times two.
    error = (weight.grad - 1 - expected).norm()
    assert error <= (2e-3 + rounding(case, backend)) * expected.norm()


@each_backend
def test_the_one_pass_loss_stays_within_the_tolerance(backend: Backend) -> None:
    case = make_case(30, 32, 400, scale=8.0, dtype=torch.bfloat16, device=backend[1])
    case.targets[5:9] = -100
    signs = case.grad_logprobs.masked_fill(torch.arange(30, device=backend[1]) % 3 == 0, 0.0)

    def loss_of(logprobs: torch.Tensor, entropy: torch.Tensor, rows: slice) -> torch.Tensor:
        return signs[rows] * logprobs.clamp(min=-20) - 0.1 * entropy * (signs[rows] != 0)

    exact = case.hidden.double().requires_grad_(), case.weight.double().requires_grad_()
    logprobs, entropy = linear_logprobs(*exact, case.targets, impl="reference")
    losses = loss_of(logprobs, entropy, slice(0, 30))
    expected = torch.autograd.grad(losses[case.targets != -100].sum(), exact)
    leaves = case.hidden.clone().requires_grad_(), case.weight.clone().requires_grad_()
    outputs = [
        linear_token_loss(*leaves, case.targets, loss_of, impl=backend[0], grad_tol=tolerance)
        for tolerance in (None, 2e-2)
    ]
    for name in ("loss", "logprobs", "entropy"):
        pair = [getattr(output, name).detach() for output in outputs]
        torch.testing.assert_close(*pair, rtol=1e-6, atol=1e-6)
    for found, want in zip(torch.autograd.grad(outputs[1].loss, leaves), expected, strict=True):
        bound = 2e-2 + 1.3 * gradient_bound(torch.bfloat16, backend)
        assert (found.double() - want).norm() <= bound * want.norm()


@only_chunked
def test_a_sure_policy_takes_few_columns_and_a_flat_one_all() -> None:
    _, sure = run_backward(make_case(20, 16, 1200, scale=10.0, dtype=torch.float64), 1e-2)
    assert 0 < sure.hidden < 0.2 * sure.total
    assert 0 < sure.weight < 0.2 * sure.total
    _, flat = run_backward(make_case(50, 16, 1200, scale=0.01, dtype=torch.float64), 1e-2)
    assert flat.hidden == flat.weight == flat.total


@only_chunked
def test_where_the_hidden_gradient_cancels_all_columns_are_multiplied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights that are nearly alike: dz sums to 0 over the vocabulary, so what is left of dh is a
    millionth of its terms, and what looked negligible is not.
    """
    case = make_case(10, 8, 500, scale=12.0, dtype=torch.float64)
    logits = case.hidden @ case.weight.T
    alike = 1e6 + torch.randn(500, 1, generator=torch.Generator().manual_seed(1)).double()
    case = replace(
        case,
        hidden=torch.cat([torch.eye(10).double(), torch.zeros(10, 1).double()], 1),
        weight=torch.cat([logits.T, alike], 1),
    )
    gradients, activity = run_backward(case, 1e-2)
    assert activity.hidden == activity.total
    assert error_of(case, gradients) <= 1e-2
    no_guard = torch.zeros(10).double()
    monkeypatch.setattr(active_columns.ActiveSums, "_missing_rows", lambda *_: no_guard)
    gradients, activity = run_backward(case, 1e-2)
    assert activity.hidden < active_columns.DENSE_SHARE * activity.total
    assert error_of(case, gradients) > 1e-2, "the guard was not what kept the bound"


@only_chunked
def test_where_chunks_cancel_the_weight_gradient_is_computed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(chunked.ROW_ELEMENTS, "cpu", 40 * 500)
    case = make_case(40, 16, 500, scale=6.0, dtype=torch.float64)
    opposite = -case.grad_logprobs * (1 + 1e-5 * torch.arange(40))
    case = replace(
        case,
        hidden=case.hidden.repeat(2, 1),
        targets=case.targets.repeat(2),
        grad_logprobs=torch.cat([case.grad_logprobs, opposite]),
        grad_entropy=torch.zeros(80),
    )
    gradients, activity = run_backward(case, 1e-2)
    assert activity.weight_fell_back
    assert activity.weight < activity.total
    assert error_of(case, gradients) <= 1e-2
    out = torch.ones_like(case.weight)
    leaf = case.weight.clone().requires_grad_()
    logprobs, _ = linear_logprobs(
        case.hidden, leaf, case.targets, grad_tol=1e-2, weight_grad_out=out, impl="chunked"
    )
    logprobs.backward(case.grad_logprobs.double())
    torch.testing.assert_close(out - 1, gradients.weight)


@only_chunked
@pytest.mark.parametrize("share", [0.9, 100.0])
def test_a_greedy_first_cut_is_corrected(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(20, 16, 1200, scale=8.0, dtype=torch.float64)
    _, careful = run_backward(case, 1e-3)
    monkeypatch.setattr(active_columns, "HIDDEN_SHARE", share)
    monkeypatch.setattr(active_columns, "WEIGHT_SHARE", 100.0)
    gradients, activity = run_backward(case, 1e-3)
    assert error_of(case, gradients) <= 1e-3
    assert activity.weight_fell_back
    assert activity.hidden < activity.total or share == 100.0
    assert careful.hidden < careful.total


@only_chunked
def test_several_chunks_of_rows_stay_within_the_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chunked.ROW_ELEMENTS, "cpu", 7 * 300)
    monkeypatch.setitem(active_columns.BLOCK_ELEMENTS, "cpu", 16 * 37)
    monkeypatch.setitem(active_columns.GATHERED_COLUMNS, "cpu", 11)
    case = make_case(33, 16, 300, scale=8.0, dtype=torch.float64)
    gradients, activity = run_backward(case, 1e-3)
    assert activity.total == 5 * 300
    assert activity.hidden < activity.total
    assert activity.weight < activity.total
    assert error_of(case, gradients) <= 1e-3


@each_backend
def test_not_a_number_is_not_left_out(backend: Backend) -> None:
    case = on_device(make_case(20, 16, 100, scale=6.0), backend[1])
    case.hidden[3, 5] = math.nan
    exact = results(case, backend[0])
    found = results(replace(case, options={"grad_tol": 1e-2}), backend[0])
    assert exact["grad_weight"].isnan().any()
    for name in ("grad_hidden", "grad_weight"):
        assert torch.equal(found[name].isnan().any(1), exact[name].isnan().any(1)), name


@each_backend
def test_outputs_are_the_same_bits_and_repeat(backend: Backend) -> None:
    case = make_case(12, 16, 400, scale=8.0, device=backend[1])
    tolerant = replace(case, options={"grad_tol": 1e-2})
    exact, first, second = (results(each, backend[0]) for each in (case, tolerant, tolerant))
    assert all(torch.equal(exact[name], first[name]) for name in ("logprobs", "entropy"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(exact["grad_hidden"], first["grad_hidden"]), "nothing was left out"


@each_backend
def test_without_grad_tol_nothing_of_it_runs(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(active_columns, "ActiveSums")
    case = make_case(20, 16, 100, device=backend[1])
    assert results(case, backend[0])["grad_hidden"].any()
    with pytest.raises(NameError):
        results(replace(case, options={"grad_tol": 1e-2}), backend[0])


@each_backend
@pytest.mark.parametrize("grad_tol", [0.0, 1.0, -1e-3, math.nan])
def test_a_tolerance_outside_0_to_1_is_refused(grad_tol: float, backend: Backend) -> None:
    case = make_case(5, 8, 30, device=backend[1])
    with pytest.raises(ValueError, match="grad_tol"):
        linear_logprobs(case.hidden, case.weight, case.targets, grad_tol=grad_tol)
    with pytest.raises(ValueError, match="grad_tol"):
        linear_token_loss(
            case.hidden, case.weight, case.targets, lambda lp, en, rows: -lp, grad_tol=grad_tol
        )

"""Claims about autograd: which gradients flow, where they go, and what costs nothing."""

# pyright: reportOptionalMemberAccess=false, reportArgumentType=false

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tests.kernels.problems import BACKENDS, INTERPRETED, Backend, Case, make_case, results
from vibelite.kernels import Implementation, linear_logprobs

each_backend = pytest.mark.parametrize("backend", BACKENDS)


def leaves_of(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    return case.hidden.clone().requires_grad_(), case.weight.clone().requires_grad_()


@each_backend
@pytest.mark.parametrize("used", ["logprobs", "entropy", "both"])
def test_gradient_flows_through_either_output_alone(used: str, backend: Backend) -> None:
    case = make_case(33, 16, 200, device=backend[1])
    if used == "logprobs":
        case.grad_entropy = torch.zeros_like(case.grad_entropy)
    if used == "entropy":
        case.grad_logprobs = torch.zeros_like(case.grad_logprobs)
    expected = results(case, "reference", exact=True)
    hidden, weight = leaves_of(case)
    logprobs, entropy = linear_logprobs(hidden, weight, case.targets, impl=backend[0])
    total = (logprobs * case.grad_logprobs).sum() + (entropy * case.grad_entropy).sum()
    if used == "logprobs":
        total = (logprobs * case.grad_logprobs).sum()
    if used == "entropy":
        total = (entropy * case.grad_entropy).sum()
    total.backward()
    for tensor, name in ((hidden, "grad_hidden"), (weight, "grad_weight")):
        error = (tensor.grad.double() - expected[name]).norm()
        assert error <= 1e-5 * expected[name].norm(), (name, error)


@pytest.mark.skipif(INTERPRETED, reason="in float64 there is no kernel")
@pytest.mark.parametrize("impl", ["reference", "chunked"])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_both_outputs_gradients_are_finite_differences(
    impl: Implementation, softcap: float | None
) -> None:
    case = make_case(5, 4, 11)
    leaves = [case.hidden, case.weight, torch.linspace(-1, 1, 11)]
    inputs = [leaf.double().requires_grad_() for leaf in leaves]
    targets, temperature = case.targets.clone(), torch.linspace(0.5, 2, 5)
    targets[2] = -100

    def head(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor):
        return linear_logprobs(
            hidden, weight, targets, bias=bias, temperature=temperature, softcap=softcap, impl=impl
        )

    assert torch.autograd.gradcheck(head, inputs)


@each_backend
def test_a_zero_stride_upstream_gradient_is_read_right(backend: Backend) -> None:
    case = make_case(33, 16, 200, device=backend[1])
    gradients = []
    for reduce in (torch.sum, lambda values: (values * torch.ones_like(values)).sum()):
        hidden, weight = leaves_of(case)
        logprobs, _ = linear_logprobs(hidden, weight, case.targets, impl=backend[0])
        reduce(logprobs).backward()
        gradients.append((hidden.grad, weight.grad))
    for expanded, plain in zip(*gradients, strict=True):
        assert plain.norm() > 0
        assert torch.equal(expanded, plain)


@each_backend
def test_only_wanted_gradients_are_computed(backend: Backend) -> None:
    case = make_case(33, 16, 200, device=backend[1])
    full = results(case, backend[0])
    for wanted in ("hidden", "weight"):
        hidden, weight = leaves_of(case)
        frozen = weight if wanted == "hidden" else hidden
        frozen.requires_grad_(False)
        outputs = linear_logprobs(hidden, weight, case.targets, impl=backend[0])
        torch.autograd.backward(outputs, (case.grad_logprobs, case.grad_entropy))
        assert frozen.grad is None
        leaf = hidden if wanted == "hidden" else weight
        torch.testing.assert_close(leaf.grad, full[f"grad_{wanted}"], rtol=1e-6, atol=1e-7)


@each_backend
@pytest.mark.parametrize("share_live", [0.0, 0.3, 1.0])
def test_rows_without_upstream_gradient_change_nothing_else(
    share_live: float, backend: Backend
) -> None:
    case = make_case(70, 16, 300, device=backend[1])
    dead = torch.rand(70, generator=torch.Generator().manual_seed(2)) >= share_live
    case.grad_logprobs[dead.to(backend[1])] = 0.0
    case.grad_entropy[dead.to(backend[1])] = 0.0
    expected, found = results(case, "reference", exact=True), results(case, backend[0])
    assert (found["grad_hidden"][dead] == 0).all()
    for name in ("grad_hidden", "grad_weight"):
        error = (found[name].double() - expected[name]).norm()
        assert error <= 1e-5 * expected[name].norm(), (name, error)


@each_backend
def test_the_same_call_gives_the_same_bits(backend: Backend) -> None:
    case = make_case(70, 64, 300, device=backend[1])
    first, second = results(case, backend[0]), results(case, backend[0])
    assert all(torch.equal(first[name], second[name]) for name in first)


@each_backend
def test_backward_twice_over_a_retained_graph_gives_the_same_gradients(backend: Backend) -> None:
    case = make_case(33, 16, 200, device=backend[1])
    hidden, weight = leaves_of(case)
    logprobs, entropy = linear_logprobs(hidden, weight, case.targets, impl=backend[0])
    loss = logprobs.sum() + entropy.sum()
    first = torch.autograd.grad(loss, (hidden, weight), retain_graph=True)
    second = torch.autograd.grad(loss, (hidden, weight))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@each_backend
def test_second_derivatives_are_refused_by_name(backend: Backend) -> None:
    case = make_case(5, 8, 30, device=backend[1])
    hidden, weight = leaves_of(case)
    logprobs, _ = linear_logprobs(hidden, weight, case.targets, impl=backend[0])
    (gradient,) = torch.autograd.grad(logprobs.sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match='impl="reference" for second derivatives'):
        gradient.sum().backward()


@each_backend
def test_changing_an_input_before_backward_is_detected(backend: Backend) -> None:
    case = make_case(5, 8, 30, device=backend[1])
    for changed in (0, 1):
        leaves = leaves_of(case)
        logprobs, _ = linear_logprobs(leaves[0], leaves[1], case.targets, impl=backend[0])
        with torch.no_grad():
            leaves[changed].mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            logprobs.sum().backward()


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weight_grad_out_collects_the_gradient_over_micro_batches(
    dtype: torch.dtype, backend: Backend
) -> None:
    case = make_case(40, 16, 200, dtype=dtype, device=backend[1])
    expected = results(case, "reference", exact=True)["grad_weight"]
    main_grad = torch.zeros(case.weight.shape, device=backend[1])
    for rows in (slice(0, 15), slice(15, 40)):
        hidden, weight = case.hidden[rows].clone().requires_grad_(), leaves_of(case)[1]
        outputs = linear_logprobs(
            hidden, weight, case.targets[rows], impl=backend[0], weight_grad_out=main_grad
        )
        torch.autograd.backward(outputs, (case.grad_logprobs[rows], case.grad_entropy[rows]))
        assert weight.grad is None
        assert hidden.grad is not None
    bound = 1e-5 if dtype == torch.float32 else 5e-3
    assert (main_grad.double() - expected).norm() <= bound * expected.norm()


@each_backend
def test_tied_embeddings_get_the_sum_of_both_gradients(backend: Backend) -> None:
    case = make_case(40, 16, 60, device=backend[1])
    ids = case.targets.roll(1)

    def loss(weight: torch.Tensor, impl: str, **options: torch.Tensor) -> torch.Tensor:
        outputs = linear_logprobs(weight[ids], weight, case.targets, impl=impl, **options)
        return (outputs[0] * case.grad_logprobs).sum() + (outputs[1] * case.grad_entropy).sum()

    weight = leaves_of(case)[1]
    (expected,) = torch.autograd.grad(loss(weight, "reference"), weight)
    (found,) = torch.autograd.grad(loss(weight, backend[0]), weight)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
    weight.grad = torch.zeros_like(weight)
    loss(weight, backend[0], weight_grad_out=weight.grad).backward()
    torch.testing.assert_close(weight.grad, expected, rtol=1e-4, atol=2e-5)


@each_backend
def test_mixed_dtypes_are_promoted_and_gradients_come_back_in_their_own(backend: Backend) -> None:
    case = make_case(20, 16, 100, device=backend[1])
    hidden, weight = case.hidden.bfloat16().requires_grad_(), leaves_of(case)[1]
    logprobs, _ = linear_logprobs(hidden, weight, case.targets, impl=backend[0])
    expected, _ = linear_logprobs(hidden.float(), weight, case.targets, impl="reference")
    torch.testing.assert_close(logprobs, expected, atol=3e-5, rtol=0)
    logprobs.sum().backward()
    assert (hidden.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32)


@each_backend
def test_autocast_casts_the_weight_and_leaves_its_gradient_in_float32(backend: Backend) -> None:
    case = make_case(20, 16, 100, device=backend[1])
    hidden, weight = leaves_of(case)
    with torch.autocast(backend[1], dtype=torch.bfloat16):
        logprobs, _ = linear_logprobs(hidden, weight, case.targets, impl=backend[0])
    rounded = linear_logprobs(hidden.bfloat16(), weight.bfloat16(), case.targets, impl="reference")[
        0
    ]
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs, rounded, atol=3e-5, rtol=0)
    logprobs.sum().backward()
    assert weight.grad.dtype == torch.float32


@pytest.mark.skipif(INTERPRETED, reason="the chunked head stands for the operator")
def test_the_operator_compiles_as_one_graph_for_any_number_of_rows() -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    head = torch.compile(linear_logprobs, fullgraph=True, dynamic=True, backend=counter)
    counts = []
    for num in (5, 33, 70):
        case = make_case(num, 16, 200)
        hidden, weight = leaves_of(case)
        outputs = head(hidden, weight, case.targets, impl="chunked")
        gradients = torch.autograd.grad(
            outputs, (hidden, weight), (case.grad_logprobs, case.grad_entropy)
        )
        expected = results(case, "chunked")
        assert torch.equal(outputs[0], expected["logprobs"])
        assert torch.equal(gradients[0], expected["grad_hidden"])
        assert torch.equal(gradients[1], expected["grad_weight"])
        counts.append(counter.frame_count)
    assert counts == [counts[0]] * 3


@pytest.mark.skipif(INTERPRETED, reason="the chunked head stands for the operator")
def test_the_operator_tells_the_compiler_the_truth() -> None:
    from vibelite.kernels.operators import linear_logprobs_forward

    case = make_case(7, 8, 30)
    arguments = (*leaves_of(case), case.targets, None, None, None, 1.0, None, -100, None, "chunked")
    torch.library.opcheck(
        linear_logprobs_forward,
        arguments,
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )

"""Misuse is refused by name, and the heads stay within their memory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import vibelite
from benchmarks.memory_growth import peak_allocated_bytes
from tests.kernels.problems import INTERPRETED, make_case
from vibelite.kernels import active_columns, chunked, linear_logprobs, linear_token_loss
from vibelite.kernels.problem import Problem, Wanted

pytestmark = pytest.mark.skipif(INTERPRETED, reason="nothing here depends on the implementation")


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_without_a_distribution_is_refused(temperature: float) -> None:
    case = make_case(4, 8, 20)
    with pytest.raises(ValueError, match="temperature must be positive and finite"):
        linear_logprobs(case.hidden, case.weight, case.targets, temperature=temperature)
    rows = torch.tensor([1.0, temperature, 1.0, 1.0])
    with pytest.raises(ValueError, match="temperature must be positive and finite"):
        linear_logprobs(case.hidden, case.weight, case.targets, temperature=rows)


@pytest.mark.parametrize("target", [20, -1, 10**9])
def test_a_target_outside_the_vocabulary_is_named(target: int) -> None:
    case = make_case(4, 8, 20)
    case.targets[2] = target
    with pytest.raises(ValueError, match=f"target {target} is outside the vocabulary"):
        linear_logprobs(case.hidden, case.weight, case.targets)


def test_shapes_and_dtypes_that_do_not_fit_are_refused() -> None:
    case = make_case(4, 8, 20)
    hidden, weight, targets = case.hidden, case.weight, case.targets
    with pytest.raises(ValueError, match="Flatten batch and time"):
        linear_logprobs(hidden[None], weight, targets)
    with pytest.raises(ValueError, match="weight"):
        linear_logprobs(hidden, weight[:, :7], targets)
    with pytest.raises(ValueError, match="targets must be"):
        linear_logprobs(hidden, weight, targets[:3])
    with pytest.raises(TypeError, match="int32 or int64"):
        linear_logprobs(hidden, weight, targets.float())
    with pytest.raises(ValueError, match="bias must be"):
        linear_logprobs(hidden, weight, targets, bias=torch.zeros(19))
    with pytest.raises(ValueError, match="softcap"):
        linear_logprobs(hidden, weight, targets, softcap=0.0)
    with pytest.raises(ValueError, match="impl must be"):
        linear_logprobs(hidden, weight, targets, impl="fast")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="weight_grad_out must match"):
        linear_logprobs(hidden, weight, targets, weight_grad_out=torch.zeros(20, 7))


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor._base is None:
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // 4)
        return result


def test_the_chunked_head_never_holds_all_logits_or_a_frozen_weights_gradient() -> None:
    case = make_case(600, 16, 50_000)
    problem = Problem(case.hidden, case.weight, case.targets)
    weight_elements = case.weight.numel()  # 0.8 million; all logits are 30 million
    with LargestTensor() as largest:
        statistics = chunked.forward(problem)
        upstream = (case.grad_logprobs, case.grad_entropy)
        chunked.backward(problem, statistics, *upstream, Wanted(hidden=True, weight=False))
    # The weight itself passes through no operation that returns it as a new tensor.
    assert weight_elements < chunked.TILE_ELEMENTS["cpu"]
    assert largest.elements <= chunked.TILE_ELEMENTS["cpu"]


@pytest.mark.parametrize("num", [512, pytest.param(4096, marks=pytest.mark.slow)])
@pytest.mark.parametrize("one_pass", [False, True])
def test_smollm2s_head_needs_at_most_64_mib_beside_inputs_and_gradients(
    num: int, one_pass: bool
) -> None:
    case = make_case(num, 576, 49152)  # all logits of 512 rows are 96 MiB
    hidden, weight = case.hidden.requires_grad_(), case.weight.requires_grad_()
    returned = 4 * (hidden.numel() + weight.numel() + 2 * num)

    def run() -> None:
        if one_pass:
            loss = linear_token_loss(hidden, weight, case.targets, lambda p, e, _: p + e).loss
        else:
            logprobs, entropy = linear_logprobs(hidden, weight, case.targets)
            loss = (logprobs + entropy).sum()
        torch.autograd.grad(loss, [hidden, weight])

    assert peak_allocated_bytes(run) - returned <= 64 << 20


def test_dead_rows_never_reach_the_backward_products() -> None:
    case = make_case(600, 16, 5_000)
    case.grad_logprobs[10:], case.grad_entropy[10:] = 0.0, 0.0
    problem = Problem(case.hidden, case.weight, case.targets)
    statistics = chunked.forward(problem)
    with LargestTensor() as largest:
        upstream = (case.grad_logprobs, case.grad_entropy)
        chunked.backward(problem, statistics, *upstream, Wanted(hidden=True, weight=False))
    assert largest.elements <= 5_000 * 16  # the view of the weight; all rows' logits are 3 million


def test_a_tolerant_backward_pass_never_holds_more_than_its_rows() -> None:
    case = make_case(600, 16, 50_000)
    problem = Problem(case.hidden, case.weight, case.targets)
    call = active_columns.Call(
        chunked, problem, chunked.forward(problem), (case.grad_logprobs, case.grad_entropy)
    )
    with LargestTensor() as largest:
        active_columns.backward(call, Wanted(hidden=True, weight=True), 1e-2)
    assert largest.elements <= chunked.ROW_ELEMENTS["cpu"] < 600 * 50_000


def test_no_other_file_of_the_package_normalises_whole_rows_of_logits() -> None:
    package = Path(vibelite.__file__).parent
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"log_softmax|cross_entropy\(|\bsoftmax\(.*dim", path.read_text())
    }
    assert found == {"kernels/reference.py"}

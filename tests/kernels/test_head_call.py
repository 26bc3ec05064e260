"""Misuse is refused by name, and the heads stay within their memory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import vibelite
from benchmarks.memory_growth import peak_allocated_bytes
from tests.kernels.problems import INTERPRETED, differentiable, make_case
from vibelite.kernels import HeadCall, chunked, linear_logprobs, linear_token_loss
from vibelite.kernels.head_call import NeedsGrad

pytestmark = pytest.mark.skipif(INTERPRETED, reason="nothing here depends on the implementation")


@pytest.mark.parametrize(
    ("error", "message", "changes"),
    [
        (ValueError, r"\[\[1, 4, 8\]", {"hidden": torch.zeros(1, 4, 8)}),
        (ValueError, r"\[20, 7\]", {"weight": torch.zeros(20, 7)}),
        (ValueError, r"\[3\]", {"targets": torch.zeros(3, dtype=torch.long)}),
        (TypeError, "int32 or int64", {"targets": torch.zeros(4)}),
        (ValueError, r"\[19\]", {"bias": torch.zeros(19)}),
        (ValueError, "softcap", {"softcap": 0.0}),
        (ValueError, "target 20 is outside", {"targets": torch.tensor([0, 1, 20, 3])}),
        (ValueError, "target -1 is outside", {"targets": torch.tensor([0, 1, -1, 3])}),
        (ValueError, "temperature must be", {"temperature": 0.0}),
        (ValueError, "temperature must be", {"temperature": float("nan")}),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    error: type[Exception], message: str, changes: dict[str, Any]
) -> None:
    case = make_case(4, 8, 20)
    fitting: dict[str, Any] = {
        "hidden": case.hidden,
        "weight": case.weight,
        "targets": case.targets,
    }
    call = HeadCall(**(fitting | changes))
    with pytest.raises(error, match=message):
        linear_logprobs(call)
    with pytest.raises(error, match=message):
        linear_token_loss(call, lambda logprobs, entropy, rows: logprobs)


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
    call = HeadCall(case.hidden, case.weight, case.targets)
    needs_grad = NeedsGrad(hidden=True, weight=False, bias=False)
    with LargestTensor() as largest:
        chunked.forward(call)
        chunked.loss_and_gradients(call, lambda logprobs, entropy, _: logprobs, needs_grad)
    assert largest.elements <= chunked.ROW_ELEMENTS["cpu"] < 600 * 50_000


@pytest.mark.parametrize("num", [512, pytest.param(4096, marks=pytest.mark.slow)])
def test_smollm2s_head_needs_at_most_64_mib_beside_inputs_and_gradients(num: int) -> None:
    call, leaves = differentiable(make_case(num, 576, 49152))  # all logits of 512 rows are 96 MiB
    returned = 4 * (call.hidden.numel() + call.weight.numel() + 2 * num)

    def train() -> None:
        loss = linear_token_loss(call, lambda logprobs, entropy, _: logprobs + entropy).loss
        torch.autograd.grad(loss, list(leaves.values()))

    assert peak_allocated_bytes(train) - returned <= 64 << 20
    assert peak_allocated_bytes(lambda: linear_logprobs(call)) <= 64 << 20


def test_dead_rows_never_reach_the_backward_products(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(60, 16, 5_000)
    seen = []
    add = chunked.GradientSums.add

    def note(sums: chunked.GradientSums, part: HeadCall, *rest: torch.Tensor) -> None:
        seen.append(part.num_tokens)
        add(sums, part, *rest)

    monkeypatch.setattr(chunked.GradientSums, "add", note)
    call, _ = differentiable(case)
    live = (torch.arange(60) < 10).float()
    linear_token_loss(call, lambda logprobs, entropy, rows: live[rows] * logprobs)
    assert seen == [10]


def test_no_file_of_the_package_normalises_whole_rows_of_logits() -> None:
    package = Path(vibelite.__file__).parent
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"log_softmax|cross_entropy\(|\bsoftmax\(.*dim", path.read_text())
    }
    assert found == set()

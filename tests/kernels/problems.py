"""Problems for the fused head's tests, and the comparison with float64 that they share."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import torch

from vibelite.kernels import Implementation, linear_logprobs

# The child process of test_triton_interpreted.py runs these tests on Triton's interpreter.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BACKENDS = [
    pytest.param(("chunked", "cpu"), id="chunked"),
    pytest.param(("triton", "cuda"), id="triton-cuda", marks=pytest.mark.gpu),
    pytest.param(("chunked", "cuda"), id="chunked-cuda", marks=pytest.mark.gpu),
]
if INTERPRETED:
    BACKENDS = [pytest.param(("triton", "cpu"), id="triton-interpreted")]
Backend = tuple[Literal["chunked", "triton"], str]


@dataclass
class Case:
    """Inputs [N, H], [V, H], [N], upstream gradients [N] and options of one call."""

    hidden: torch.Tensor
    weight: torch.Tensor
    targets: torch.Tensor
    grad_logprobs: torch.Tensor
    grad_entropy: torch.Tensor
    options: dict[str, Any] = field(default_factory=dict)


def make_case(
    num: int,
    width: int,
    vocab: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    scale: float = 2.0,
    **options: Any,
) -> Case:
    """Random inputs whose logits have standard deviation `scale`."""
    generator = torch.Generator().manual_seed(num * 1000003 + width * 1009 + vocab)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    case = Case(
        hidden=normal(num, width).to(dtype),
        weight=(normal(vocab, width) * (scale / width**0.5)).to(dtype),
        targets=torch.randint(0, vocab, (num,), generator=generator),
        grad_logprobs=normal(num),
        grad_entropy=0.3 * normal(num),
        options=options,
    )
    return on_device(case, device)


def on_device(case: Case, device: str) -> Case:
    def move(value: Any) -> Any:
        return value.to(device) if isinstance(value, torch.Tensor) else value

    return Case(
        hidden=move(case.hidden),
        weight=move(case.weight),
        targets=move(case.targets),
        grad_logprobs=move(case.grad_logprobs),
        grad_entropy=move(case.grad_entropy),
        options={key: move(value) for key, value in case.options.items()},
    )


def results(case: Case, impl: Implementation, *, exact: bool = False) -> dict[str, torch.Tensor]:
    """Outputs and gradients of every differentiable input; `exact` computes them in float64."""
    leaves = {"hidden": case.hidden, "weight": case.weight}
    options = dict(case.options)
    if options.get("bias") is not None:
        leaves["bias"] = options.pop("bias")
    leaves = {
        name: (tensor.double() if exact else tensor).detach().clone().requires_grad_()
        for name, tensor in leaves.items()
    }
    hidden, weight, bias = leaves["hidden"], leaves["weight"], leaves.get("bias")
    logprobs, entropy = linear_logprobs(
        hidden, weight, case.targets, impl=impl, bias=bias, **options
    )
    upstream = [case.grad_logprobs.to(logprobs.dtype), case.grad_entropy.to(logprobs.dtype)]
    grads = torch.autograd.grad([logprobs, entropy], list(leaves.values()), upstream)
    return {"logprobs": logprobs.detach(), "entropy": entropy.detach()} | {
        f"grad_{name}": grad for name, grad in zip(leaves, grads, strict=True)
    }


def gradient_bound(dtype: torch.dtype, backend: Backend) -> float:
    """Relative error allowed of a gradient.

    A bf16 result rounds with 1.7e-3, and on a GPU its bf16 dz with as much again; Triton's
    interpreter truncates instead of rounding, which doubles it, and sums over few columns leave
    little to average.
    """
    if dtype == torch.bfloat16:
        if backend == ("triton", "cpu"):
            return 5e-3
        return 3.2e-3 if backend[1] == "cuda" else 2.3e-3
    return 6e-4 if dtype == torch.float16 else 1e-5


def assert_matches_float64(case: Case, backend: Backend, *, output_bound: float = 3e-5) -> None:
    """Outputs within `output_bound` nats, gradients within the dtype's relative bound."""
    expected = results(case, "reference", exact=True)
    found = results(case, backend[0])
    for name in ("logprobs", "entropy"):
        assert found[name].dtype == torch.float32
        error = (found[name].double() - expected[name]).abs().max() if len(found[name]) else 0.0
        assert error <= output_bound, (name, error)
    bound = gradient_bound(case.hidden.dtype, backend)
    for name in expected.keys() - {"logprobs", "entropy"}:
        assert torch.isfinite(found[name]).all(), name
        error = (found[name].double() - expected[name]).norm()
        # The second term is for gradients that are 0, as with a vocabulary of one.
        assert error <= bound * expected[name].norm() + 1e-5, (name, error, expected[name].norm())


def logits_case(logits: torch.Tensor, targets: list[int], **options: Any) -> Case:
    """A case whose logits [N, V] are given: hidden is the identity, so that H = N."""
    num = len(logits)
    generator = torch.Generator().manual_seed(0)
    return Case(
        hidden=torch.eye(num),
        weight=logits.T.contiguous(),
        targets=torch.tensor(targets),
        grad_logprobs=torch.randn(num, generator=generator),
        grad_entropy=torch.randn(num, generator=generator),
        options=options,
    )

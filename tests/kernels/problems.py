"""Cases for the fused head's tests, and the comparison with float64 that they share."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple

import pytest
import torch

from tests.kernels.reference import reference_logprobs
from vibelite.kernels import HeadCall, PerTokenLoss, linear_logprobs, linear_token_loss

# The child process of test_triton_interpreted.py runs these tests on Triton's interpreter.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# What that child selects: the interpreter takes seconds where the others take milliseconds.
interpreted = pytest.mark.interpreted


class Backend(NamedTuple):
    """An implementation, where it runs, and whether conftest.py gives it tiny tiles."""

    impl: Literal["chunked", "triton"]
    device: str
    has_tiny_tiles: bool = False

    def __str__(self) -> str:
        return f"{self.impl}-{self.device}" + ("-tiny-tiles" if self.has_tiny_tiles else "")


BACKENDS: list[Any] = [
    Backend("chunked", "cpu"),
    Backend("chunked", "cpu", has_tiny_tiles=True),
    pytest.param(Backend("triton", "cuda"), marks=pytest.mark.gpu),
    pytest.param(Backend("chunked", "cuda"), marks=pytest.mark.gpu),
]
if INTERPRETED:
    BACKENDS = [Backend("triton", "cpu")]


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

    moved: dict[str, Any] = {f.name: move(getattr(case, f.name)) for f in fields(case)}
    moved["options"] = {key: move(value) for key, value in case.options.items()}
    return Case(**moved)


def results(case: Case, backend: Backend) -> dict[str, torch.Tensor]:
    """Log-probs and entropies, those that come with the loss too, and gradients of every
    differentiable input.
    """
    call, leaves = differentiable(case)
    logprobs, entropy = linear_logprobs(call, backend.impl)
    output = linear_token_loss(call, linear_loss(case), backend.impl)
    gradients = torch.autograd.grad(output.loss, list(leaves.values()))
    return {
        "logprobs": logprobs,
        "entropy": entropy,
        "loss_logprobs": output.logprobs,
        "loss_entropy": output.entropy,
    } | {f"grad_{name}": grad for name, grad in zip(leaves, gradients, strict=True)}


def exact_results(case: Case) -> dict[str, torch.Tensor]:
    """As `results`, by the definition in float64."""
    call, leaves = differentiable(case, torch.float64)
    outputs = reference_logprobs(call)
    upstream = [case.grad_logprobs.double(), case.grad_entropy.double()]
    gradients = torch.autograd.grad(outputs, list(leaves.values()), upstream)
    names = ("logprobs", "entropy", "loss_logprobs", "loss_entropy")
    found = dict(zip(names, [output.detach() for output in outputs] * 2, strict=True))
    return found | {f"grad_{name}": grad for name, grad in zip(leaves, gradients, strict=True)}


def linear_loss(case: Case) -> PerTokenLoss:
    """The loss whose gradients are the case's upstream gradients."""

    def per_token(logprobs: torch.Tensor, entropy: torch.Tensor, rows: slice) -> torch.Tensor:
        return case.grad_logprobs[rows] * logprobs + case.grad_entropy[rows] * entropy

    return per_token


def allowed_errors(
    case: Case, backend: Backend, loss: PerTokenLoss, factor: float = 1.0
) -> dict[str, float]:
    """The norm of the error allowed of every gradient of `factor` times the loss.

    On a GPU in bf16 dz and the results are rounded, and by Triton the probabilities. What that
    alone costs depends on the case: where few rows carry the loss, their errors do not average. So
    it is computed, in float64, and a tenth is added for the rest.
    """
    call, leaves = differentiable(case, torch.float64)
    value = loss(*reference_logprobs(call), slice(0, len(case.targets))).sum()
    found = torch.autograd.grad(factor * value, list(leaves.values()))
    wanted = dict(zip(leaves, found, strict=True))
    if (case.hidden.dtype, backend.device) != (torch.bfloat16, "cuda"):
        bound = gradient_bound(case.hidden.dtype, backend)
        if factor != 1 and case.hidden.dtype == torch.bfloat16:
            bound *= 1.3  # the factor is rounded as well, and exp(z) by Triton
        return {name: bound * float(want.norm()) for name, want in wanted.items()}
    dz = rounded_dz(call, loss, of_rounded_exps=backend.impl == "triton")
    hidden, weight = call.hidden.detach(), call.weight.detach()
    gradients = {"hidden": dz @ weight, "weight": dz.T @ hidden, "bias": dz.sum(0)}
    return {
        name: 1.1 * float((_rounded(factor * _rounded(gradients[name])) - want).norm())
        for name, want in wanted.items()
    }


def _rounded(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.bfloat16().double()


@torch.no_grad()
def rounded_dz(call: HeadCall, loss: PerTokenLoss, *, of_rounded_exps: bool) -> torch.Tensor:
    """dz [N, V] of a float64 call, rounded to bf16, by its formula: g (onehot - p) - e p (log p +
    H) for upstream gradients g of the log-prob and e of the entropy H. With `of_rounded_exps` p is
    of powers of two that were rounded too.
    """
    with torch.enable_grad():
        logprobs, entropies = (out.detach().requires_grad_() for out in reference_logprobs(call))
        value = loss(logprobs, entropies, slice(0, len(call.targets))).sum()
        upstream = torch.autograd.grad(value, (logprobs, entropies))
    on_logprob, on_entropy = (gradient[:, None] for gradient in upstream)
    z = call.hidden @ call.weight.T
    z = z if call.bias is None else z + call.bias
    slope = torch.ones_like(z)
    if call.softcap is not None:
        z = call.softcap * torch.tanh(z / call.softcap)
        slope = 1 - (z / call.softcap).square()
    log_p = torch.log_softmax(z / call.temperature, -1)
    exact = log_p.exp()
    entropy = -(exact * log_p).sum(-1, keepdim=True)
    target = torch.nn.functional.one_hot(call.targets.long(), z.shape[1])
    if of_rounded_exps:
        powers = z / (call.temperature * math.log(2))
        powers = torch.exp2(powers - powers.amax(-1, keepdim=True).ceil())
        rounding = torch.where(target == 1, 1.0, _rounded(powers) / powers)
        exact, log_p = exact * rounding, log_p + rounding.log()
    dz = on_logprob * (target - exact) - on_entropy * exact * (log_p + entropy)
    return _rounded(dz * slope / call.temperature)


def differentiable(
    case: Case, dtype: torch.dtype | None = None
) -> tuple[HeadCall, dict[str, torch.Tensor]]:
    """The call of a case, in `dtype` or its own, and its leaves: hidden, weight, and a bias."""
    leaves = {"hidden": case.hidden, "weight": case.weight}
    if case.options.get("bias") is not None:
        leaves["bias"] = case.options["bias"]
    leaves = {
        name: tensor.to(dtype or tensor.dtype).detach().clone().requires_grad_()
        for name, tensor in leaves.items()
    }
    arguments: dict[str, Any] = case.options | {"targets": case.targets} | leaves
    return HeadCall(**arguments), leaves


def gradient_bound(dtype: torch.dtype, backend: Backend) -> float:
    """Relative error allowed of a gradient.

    A bf16 result rounds with 1.7e-3, and on a GPU its bf16 dz with as much again; Triton's
    interpreter truncates instead of rounding, which doubles it, and sums over few columns leave
    little to average.
    """
    if dtype == torch.bfloat16:
        if backend == Backend("triton", "cpu"):
            return 5e-3
        return 3.2e-3 if backend.device == "cuda" else 2.3e-3
    return 6e-4 if dtype == torch.float16 else 1e-5


def assert_matches_float64(case: Case, backend: Backend, *, output_bound: float = 3e-5) -> None:
    """Outputs within `output_bound` nats, gradients within the dtype's relative bound."""
    expected, found = exact_results(case), results(case, backend)
    bound = gradient_bound(case.hidden.dtype, backend)
    for name, want in expected.items():
        got = found[name]
        if name.startswith("grad_"):
            assert torch.isfinite(got).all(), name
            error = (got.double() - want).norm()
            # The second term is for gradients that are 0, as with a vocabulary of one.
            assert error <= bound * want.norm() + 1e-5, (name, error, want.norm())
        else:
            assert got.dtype == torch.float32
            error = (got.double() - want).abs().max() if len(got) else 0.0
            assert error <= output_bound, (name, error)


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

"""The fused language-model head: log-probs and entropies of chosen tokens without their logits.

One operator, three implementations: `reference` is the definition, `chunked` runs anywhere in
bounded memory, `triton` is for NVIDIA GPUs from Ampere on. Triton is imported only when used.
"""

from __future__ import annotations

import importlib.util
from typing import Literal

import torch

from vibelite.kernels import operators, reference
from vibelite.kernels.fused_loss import PerTokenLoss, TokenLoss, fused_loss
from vibelite.kernels.problem import Problem, check_arguments, check_cuda_targets

__all__ = [
    "Implementation",
    "PerTokenLoss",
    "TokenLoss",
    "check_cuda_targets",
    "linear_logprobs",
    "linear_token_loss",
]

TRITON_IS_INSTALLED = importlib.util.find_spec("triton") is not None
Implementation = Literal["auto", "reference", "chunked", "triton"]


def linear_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    temperature: float | torch.Tensor = 1.0,
    bias: torch.Tensor | None = None,
    softcap: float | None = None,
    ignore_index: int = -100,
    impl: Implementation = "auto",
    weight_grad_out: torch.Tensor | None = None,
    grad_tol: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of the targets and entropies of their distributions, each [N] float32, in nats.

    The distribution of row t is softmax(softcap(hidden_t weight^T + bias) / temperature). hidden
    [N, H], weight [V, H], targets [N] int32 or int64, temperature a positive float or [N], bias
    [V]. Both outputs are differentiable (once) with respect to hidden, weight and bias. Rows whose
    target is `ignore_index` give 0, 0 and no gradient. float64 inputs give float64 outputs. Under
    autocast hidden and weight are cast to its dtype; otherwise two different dtypes are promoted.

    impl: `auto` takes triton for 16-bit inputs on a GPU of compute capability 8.0 or later if
    triton is installed, else chunked. `weight_grad_out` [V, H]: the backward pass adds the
    weight's gradient to it, in its dtype, and autograd sees none for the weight; an optimizer's
    main gradient, or the `.grad` of tied embeddings. Raises ValueError or TypeError for misuse.

    grad_tol (0 < grad_tol < 1): each gradient may be off by that much of its Frobenius norm, and
    the backward pass multiplies only the vocabulary columns it needs for that; it pays on a CPU for
    peaked distributions (`active_columns` has the bound, its proof, and what it costs on a GPU).
    Outputs stay the same. None, the default, is exact; so is `reference`, whatever grad_tol is.
    """
    problem = _problem(hidden, weight, targets, temperature, bias, softcap, ignore_index)
    _check_grad_tol(grad_tol)
    if impl == "auto":
        impl = choose_implementation(problem)
    if impl == "reference":
        if weight_grad_out is not None:
            raise ValueError('impl="reference" has no weight_grad_out; autograd owns its gradients')
        return reference.linear_logprobs(problem)
    if impl not in operators.BACKENDS:
        raise ValueError(f"impl must be auto, reference, chunked or triton; got {impl!r}")
    _check_weight_grad_out(problem.weight, weight_grad_out)
    logprobs, entropy, _ = operators.linear_logprobs_forward(
        problem.hidden, problem.weight, targets, bias, problem.row_temperature, weight_grad_out,
        problem.temperature, softcap, ignore_index, grad_tol, impl,
    )  # fmt: skip
    return logprobs, entropy


def linear_token_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    per_token_loss: PerTokenLoss,
    *,
    temperature: float | torch.Tensor = 1.0,
    bias: torch.Tensor | None = None,
    softcap: float | None = None,
    ignore_index: int = -100,
    impl: Literal["auto", "chunked", "triton"] = "auto",
    grad_tol: float | None = None,
) -> TokenLoss:
    """The sum of a per-token loss over all rows, with the logits computed once instead of twice.

    `per_token_loss(logprobs [n], entropy [n], rows)` returns [n] losses of the rows in the slice
    `rows`, each a function of its own row's log-prob and entropy only, by differentiable torch
    operations; constants [N] (weights, advantages, old log-probs) are indexed with `rows`. Weights
    and denominators belong inside it. The other arguments are those of `linear_logprobs`. Returns
    the loss, to be differentiated once, and detached log-probs and entropies [N].
    """
    problem = _problem(hidden, weight, targets, temperature, bias, softcap, ignore_index)
    if impl == "auto":
        impl = choose_implementation(problem)
    if impl not in operators.BACKENDS:
        raise ValueError(f"impl must be auto, chunked or triton; got {impl!r}")
    _check_grad_tol(grad_tol)
    return fused_loss(problem, per_token_loss, impl, grad_tol)


def choose_implementation(problem: Problem) -> Literal["chunked", "triton"]:
    """What `auto` means: triton for 16-bit inputs on a GPU from Ampere on, if it is installed."""
    hidden = problem.hidden
    if not hidden.is_cuda or hidden.dtype not in (torch.bfloat16, torch.float16):
        return "chunked"
    if torch.cuda.get_device_capability(hidden.device) < (8, 0):
        return "chunked"
    return "triton" if TRITON_IS_INSTALLED else "chunked"


def _problem(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    temperature: float | torch.Tensor,
    bias: torch.Tensor | None,
    softcap: float | None,
    ignore_index: int,
) -> Problem:
    """The checked problem, in one dtype."""
    hidden, weight = _common_dtype(hidden, weight)
    per_row = isinstance(temperature, torch.Tensor)
    problem = Problem(
        hidden=hidden,
        weight=weight,
        targets=targets,
        temperature=1.0 if per_row else float(temperature),
        row_temperature=temperature.detach() if per_row else None,
        bias=bias,
        softcap=softcap,
        ignore_index=ignore_index,
    )
    check_arguments(problem)
    return problem


def _common_dtype(hidden: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    device_type = hidden.device.type
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
    else:
        dtype = torch.promote_types(hidden.dtype, weight.dtype)
    return hidden.to(dtype), weight.to(dtype)


def _check_grad_tol(grad_tol: float | None) -> None:
    if grad_tol is not None and not 0 < grad_tol < 1:
        raise ValueError(f"grad_tol must lie between 0 and 1, or be None for exact; got {grad_tol}")


def _check_weight_grad_out(weight: torch.Tensor, out: torch.Tensor | None) -> None:
    if out is None:
        return
    if out.shape != weight.shape or out.device != weight.device:
        raise ValueError(
            f"weight_grad_out must match weight, {list(weight.shape)} on {weight.device}; "
            f"got {list(out.shape)} on {out.device}"
        )
    if out.requires_grad or not out.dtype.is_floating_point:
        raise ValueError("weight_grad_out must be floating and must not require grad")

"""The fused language-model head: log-probs and entropies of chosen tokens without their logits.

One operator, three implementations: `reference` is the definition, `chunked` runs anywhere in
bounded memory, `triton` is for NVIDIA GPUs from Ampere on. Triton is imported only when used.
"""

from __future__ import annotations

import importlib.util
from typing import Literal

import torch

from vibelite.kernels import operators, reference
from vibelite.kernels.problem import Problem, check_arguments, check_cuda_targets

__all__ = ["Implementation", "check_cuda_targets", "linear_logprobs"]

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
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of the targets and entropies of their distributions, each [N] float32, in nats.

    The distribution of row t is softmax(softcap(hidden_t weight^T + bias) / temperature). hidden
    [N, H], weight [V, H], targets [N] int32 or int64, temperature a positive float or [N], bias [V].
    Both outputs are differentiable (once) with respect to hidden, weight and bias. Rows whose target
    is `ignore_index` give 0, 0 and no gradient. float64 inputs give float64 outputs. Under autocast
    hidden and weight are cast to its dtype; otherwise two different dtypes are promoted.

    impl: `auto` takes triton on a GPU of compute capability 8.0 or later if triton is installed and
    the inputs are not float64, else chunked. `weight_grad_out` [V, H]: the backward pass adds the
    weight's gradient to it, in its dtype, and autograd sees none for the weight; an optimizer's
    main gradient, or the `.grad` of tied embeddings. Raises ValueError or TypeError for misuse.
    """
    hidden, weight = _common_dtype(hidden, weight)
    scalar = not isinstance(temperature, torch.Tensor)
    problem = Problem(
        hidden=hidden,
        weight=weight,
        targets=targets,
        temperature=float(temperature) if scalar else 1.0,
        row_temperature=None if scalar else temperature.detach(),
        bias=bias,
        softcap=softcap,
        ignore_index=ignore_index,
    )
    check_arguments(problem)
    if impl == "auto":
        impl = choose_implementation(hidden)
    if impl == "reference":
        if weight_grad_out is not None:
            raise ValueError('impl="reference" has no weight_grad_out; autograd owns its gradients')
        return reference.linear_logprobs(problem)
    if impl not in operators.BACKENDS:
        raise ValueError(f"impl must be auto, reference, chunked or triton; got {impl!r}")
    _check_weight_grad_out(weight, weight_grad_out)
    logprobs, entropy, _ = operators.linear_logprobs_forward(
        hidden, weight, targets, bias, problem.row_temperature, weight_grad_out,
        problem.temperature, softcap, ignore_index, impl,
    )  # fmt: skip
    return logprobs, entropy


def choose_implementation(hidden: torch.Tensor) -> Literal["chunked", "triton"]:
    """What `auto` means for these inputs."""
    if not hidden.is_cuda or hidden.dtype == torch.float64:
        return "chunked"
    if torch.cuda.get_device_capability(hidden.device) < (8, 0):
        return "chunked"
    return "triton" if importlib.util.find_spec("triton") is not None else "chunked"


def _common_dtype(hidden: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    device_type = hidden.device.type
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
    else:
        dtype = torch.promote_types(hidden.dtype, weight.dtype)
    return hidden.to(dtype), weight.to(dtype)


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

"""The fused language-model head: log-probs and entropies of chosen tokens without their logits.

`chunked` runs anywhere in bounded memory, `triton_head` on NVIDIA GPUs from Ampere on; both give
what tests/kernels/reference.py defines. Triton is imported only when used.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Literal

import torch

from vibelite.kernels.fused_loss import PerTokenLoss, TokenLoss, fused_loss
from vibelite.kernels.head_call import HeadCall

__all__ = [
    "HeadCall",
    "Implementation",
    "PerTokenLoss",
    "TokenLoss",
    "linear_logprobs",
    "linear_token_loss",
]

TRITON_IS_INSTALLED = importlib.util.find_spec("triton") is not None
Implementation = Literal["auto", "chunked", "triton"]
BACKENDS = {"chunked": "vibelite.kernels.chunked", "triton": "vibelite.kernels.triton_head"}


@torch.no_grad()
def linear_logprobs(
    call: HeadCall, impl: Implementation = "auto"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of the targets and entropies of their distributions, each [N] float32, in nats.

    They carry no gradient: `linear_token_loss` is for training. float64 inputs give float64
    outputs; two different dtypes are promoted. `auto` takes triton for bfloat16 on a GPU of compute
    capability 8.0 or later if triton is installed, else chunked. Raises ValueError or TypeError for
    misuse.
    """
    call = call.checked()
    statistics = _backend(call, impl).forward(call)
    return statistics.logprobs, statistics.entropy


def linear_token_loss(
    call: HeadCall, per_token_loss: PerTokenLoss, impl: Implementation = "auto"
) -> TokenLoss:
    """The sum of a per-token loss over all rows, with the logits computed once.

    `per_token_loss(logprobs [n], entropy [n], rows)` returns [n] losses of the rows in the slice
    `rows`, each a differentiable function of its own row's log-prob and entropy only; constants [N]
    are indexed with `rows`. Returns the loss, to be differentiated once with respect to hidden,
    weight and bias, and detached log-probs and entropies [N]. Else as `linear_logprobs`.
    """
    call = call.checked()
    return fused_loss(call, per_token_loss, _backend(call, impl).loss_and_gradients)


def _backend(call: HeadCall, impl: Implementation) -> Any:
    """The module that computes the call."""
    if impl == "auto":
        suits_triton = (
            TRITON_IS_INSTALLED
            and call.hidden.is_cuda
            and call.hidden.dtype == torch.bfloat16
            and torch.cuda.get_device_capability(call.hidden.device) >= (8, 0)
        )
        impl = "triton" if suits_triton else "chunked"
    return importlib.import_module(BACKENDS[impl])

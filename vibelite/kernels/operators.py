"""Binds the chunked and the Triton head to autograd and torch.compile as one custom operator.

`vibelite::linear_logprobs` and its backward are opaque to the compiler: shapes may be dynamic and
nothing is retraced per N. No arithmetic lives here.
"""

# No `from __future__ import annotations`: torch.library reads the signatures' types.
import importlib
from types import ModuleType

import torch

from vibelite.kernels import active_columns
from vibelite.kernels.active_columns import Call
from vibelite.kernels.problem import Gradients, Problem, Statistics, Wanted

BACKENDS = {
    "chunked": "vibelite.kernels.chunked",
    "triton": "vibelite.kernels.triton_linear_logprobs",
}


def backend(impl: str) -> ModuleType:
    """The module with an implementation's `forward` and `backward`; imports Triton if it must."""
    return importlib.import_module(BACKENDS[impl])


@torch.library.custom_op("vibelite::linear_logprobs", mutates_args=())
def linear_logprobs_forward(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    bias: torch.Tensor | None,
    row_temperature: torch.Tensor | None,
    weight_grad_out: torch.Tensor | None,
    temperature: float,
    softcap: float | None,
    ignore_index: int,
    grad_tol: float | None,
    impl: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probs, entropies and log-sum-exps [N]; see `Problem` and `Statistics`."""
    problem = Problem(
        hidden, weight, targets, temperature, row_temperature, bias, softcap, ignore_index
    )
    with torch.autocast(hidden.device.type, enabled=False):
        statistics = backend(impl).forward(problem)
    return statistics.logprobs, statistics.entropy, statistics.logsumexp


@linear_logprobs_forward.register_fake
def _(hidden, weight, targets, bias, row_temperature, weight_grad_out, temperature, softcap,
      ignore_index, grad_tol, impl):  # fmt: skip
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    return tuple(hidden.new_empty(hidden.shape[0], dtype=dtype) for _ in range(3))


def _gradients(
    call: Call, wanted: Wanted, grad_tol: float | None, weight_grad_out: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    gradients: Gradients
    with torch.autocast(call.problem.hidden.device.type, enabled=False):
        if grad_tol is None:
            gradients = call.backend.backward(
                call.problem, call.statistics, *call.upstream, wanted, weight_grad_out
            )
        else:
            gradients, _ = active_columns.backward(call, wanted, grad_tol, weight_grad_out)
    grad_hidden, grad_weight, grad_bias = (
        call.problem.hidden.new_empty(0) if gradient is None else gradient
        for gradient in (gradients.hidden, gradients.weight, gradients.bias)
    )
    return grad_hidden, grad_weight, grad_bias


@torch.library.custom_op("vibelite::linear_logprobs_backward", mutates_args=())
def linear_logprobs_backward(
    grad_logprobs: torch.Tensor,
    grad_entropy: torch.Tensor,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    bias: torch.Tensor | None,
    row_temperature: torch.Tensor | None,
    logprobs: torch.Tensor,
    entropy: torch.Tensor,
    logsumexp: torch.Tensor,
    temperature: float,
    softcap: float | None,
    ignore_index: int,
    grad_tol: float | None,
    impl: str,
    wanted: list[bool],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of hidden, weight and bias; one that is not wanted is an empty tensor."""
    problem = Problem(
        hidden, weight, targets, temperature, row_temperature, bias, softcap, ignore_index
    )
    statistics = Statistics(logprobs, entropy, logsumexp)
    call = Call(backend(impl), problem, statistics, (grad_logprobs, grad_entropy))
    return _gradients(call, Wanted(*wanted), grad_tol, None)


@torch.library.custom_op(
    "vibelite::linear_logprobs_backward_into", mutates_args=("weight_grad_out",)
)
def linear_logprobs_backward_into(
    weight_grad_out: torch.Tensor,
    grad_logprobs: torch.Tensor,
    grad_entropy: torch.Tensor,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    bias: torch.Tensor | None,
    row_temperature: torch.Tensor | None,
    logprobs: torch.Tensor,
    entropy: torch.Tensor,
    logsumexp: torch.Tensor,
    temperature: float,
    softcap: float | None,
    ignore_index: int,
    grad_tol: float | None,
    impl: str,
    wanted: list[bool],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `linear_logprobs_backward`, but adds the weight's gradient to `weight_grad_out`."""
    problem = Problem(
        hidden, weight, targets, temperature, row_temperature, bias, softcap, ignore_index
    )
    statistics = Statistics(logprobs, entropy, logsumexp)
    call = Call(backend(impl), problem, statistics, (grad_logprobs, grad_entropy))
    return _gradients(call, Wanted(*wanted), grad_tol, weight_grad_out)


def _fake_gradients(hidden, weight, bias, wanted):
    return tuple(
        tensor.new_empty(tensor.shape) if is_wanted else hidden.new_empty(0)
        for tensor, is_wanted in zip((hidden, weight, bias), wanted, strict=True)
    )


@linear_logprobs_backward.register_fake
def _(grad_logprobs, grad_entropy, hidden, weight, targets, bias, *rest):
    return _fake_gradients(hidden, weight, bias, rest[-1])


@linear_logprobs_backward_into.register_fake
def _(weight_grad_out, grad_logprobs, grad_entropy, hidden, weight, targets, bias, *rest):
    wants_hidden, _, wants_bias = rest[-1]
    return _fake_gradients(hidden, weight, bias, (wants_hidden, False, wants_bias))


def _setup_context(ctx, inputs, output):
    hidden, weight, targets, bias, row_temperature, weight_grad_out, *options = inputs
    ctx.save_for_backward(hidden, weight, targets, bias, row_temperature, *output)
    # Not a saved tensor: the backward pass changes it, and may run twice over one graph.
    ctx.weight_grad_out = weight_grad_out
    ctx.options = options
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_logprobs, grad_entropy, grad_logsumexp):
    assert grad_logsumexp is None, "the log-sum-exp is not an output of linear_logprobs"
    nothing = (None,) * 11
    if grad_logprobs is None and grad_entropy is None:
        return nothing
    hidden, weight, targets, bias, row_temperature, *statistics = ctx.saved_tensors
    wants_hidden, wants_weight, _, wants_bias, wants_temperature, *_ = ctx.needs_input_grad
    assert not wants_temperature, "the temperature is a constant"
    zeros = torch.zeros_like(statistics[0])
    arguments = (
        zeros if grad_logprobs is None else grad_logprobs,
        zeros if grad_entropy is None else grad_entropy,
        hidden, weight, targets, bias, row_temperature, *statistics, *ctx.options,
        [wants_hidden, wants_weight, wants_bias],
    )  # fmt: skip
    if ctx.weight_grad_out is None or not wants_weight:
        gradients = linear_logprobs_backward(*arguments)
        grad_weight = gradients[1] if wants_weight else None
    else:
        gradients = linear_logprobs_backward_into(ctx.weight_grad_out, *arguments)
        grad_weight = None
    grad_hidden = gradients[0] if wants_hidden else None
    grad_bias = gradients[2] if wants_bias else None
    return grad_hidden, grad_weight, None, grad_bias, *nothing[4:]


def _refuse_double_backward(ctx, *_):
    raise RuntimeError(
        "linear_logprobs is differentiable once: its backward pass cannot be differentiated. "
        'Use impl="reference" for second derivatives.'
    )


linear_logprobs_forward.register_autograd(_backward, setup_context=_setup_context)
linear_logprobs_backward.register_autograd(_refuse_double_backward)

"""The contenders of `linear_logprobs.py`: this package's heads and public ones, an adapter each.

An adapter binds a head to its inputs and to the upstream gradients it can take. Packages that are
not installed are left out and named in the report. None of them is a dependency of vibelite.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from vibelite.kernels import HeadCall, Implementation, linear_logprobs, linear_token_loss

Outputs = tuple[torch.Tensor | None, torch.Tensor | None]


@dataclass(frozen=True)
class Inputs:
    """hidden [N, H], weight [V, H], targets [N], and upstream gradients [N] of log-prob and
    entropy.
    """

    hidden: torch.Tensor
    weight: torch.Tensor
    targets: torch.Tensor
    grad_logprobs: torch.Tensor
    grad_entropy: torch.Tensor

    def leaves(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.hidden.detach().requires_grad_(), self.weight.detach().requires_grad_()


@dataclass(frozen=True)
class Contender:
    """`forward(inputs)` gives (log-probs, entropies), None where the head has none; `step(inputs)`
    gives (hidden's gradient, weight's gradient) of a forward and a backward pass. `upstream` says
    which upstream gradients `step` takes.
    """

    name: str
    outputs: str
    upstream: Callable[[Inputs], tuple[torch.Tensor, torch.Tensor]]
    forward: Callable[[Inputs], Outputs] | None
    step: Callable[[Inputs], tuple[torch.Tensor, ...]]
    is_ours: bool = False


def both(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    return inputs.grad_logprobs, inputs.grad_entropy


def logprob_only(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    return inputs.grad_logprobs, torch.zeros_like(inputs.grad_entropy)


def negative_log_likelihood(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full_like(inputs.grad_logprobs, -1.0), torch.zeros_like(inputs.grad_entropy)


def from_head(
    name: str,
    head: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Outputs],
    *,
    outputs: str = "log-prob + entropy",
) -> Contender:
    """A contender whose head returns differentiable log-probs and, if it can, entropies."""
    has_entropy = "entropy" in outputs

    def forward(inputs: Inputs) -> Outputs:
        with torch.no_grad():
            return head(inputs.hidden, inputs.weight, inputs.targets)

    def step(inputs: Inputs) -> tuple[torch.Tensor, ...]:
        hidden, weight = inputs.leaves()
        results = head(hidden, weight, inputs.targets)
        upstream = (inputs.grad_logprobs, inputs.grad_entropy)
        kept = [(out, grad) for out, grad in zip(results, upstream, strict=True) if out is not None]
        return torch.autograd.grad(
            [out for out, _ in kept],
            [hidden, weight],
            [grad.to(out.dtype) for out, grad in kept],
        )

    upstream = both if has_entropy else logprob_only
    return Contender(name, outputs, upstream, forward, step)


def from_loss(
    name: str,
    loss: Callable[[torch.Tensor, torch.Tensor, Inputs], torch.Tensor],
    upstream: Callable[[Inputs], tuple[torch.Tensor, torch.Tensor]],
) -> Contender:
    """A contender that only gives a summed loss."""

    def step(inputs: Inputs) -> tuple[torch.Tensor, ...]:
        hidden, weight = inputs.leaves()
        return torch.autograd.grad(loss(hidden, weight, inputs), [hidden, weight])

    return Contender(name, "loss", upstream, None, step)


def eager_head(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> Outputs:
    """A training loop without a fused head: logits in the inputs' dtype, float32 after that."""
    log_p = torch.log_softmax((hidden @ weight.T).float(), dim=-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    return log_p.gather(1, targets[:, None]).squeeze(1), entropy


def own(name: str, impl: Implementation) -> Contender:
    """What training runs: log-probs without a gradient, and the loss in one pass."""

    def forward(inputs: Inputs) -> Outputs:
        return linear_logprobs(HeadCall(inputs.hidden, inputs.weight, inputs.targets), impl)

    def step(inputs: Inputs) -> tuple[torch.Tensor, ...]:
        hidden, weight = inputs.leaves()
        a, b = inputs.grad_logprobs, inputs.grad_entropy
        loss = linear_token_loss(
            HeadCall(hidden, weight, inputs.targets),
            lambda logprobs, entropy, rows: a[rows] * logprobs + b[rows] * entropy,
            impl,
        ).loss
        return torch.autograd.grad(loss, [hidden, weight])

    return Contender(name, "loss, log-prob, entropy", both, forward, step, is_ours=True)


def own_contenders(device: torch.device) -> list[Contender]:
    result = [own("vibelite chunked", "chunked")]
    if device.type == "cuda":
        result.insert(0, own("vibelite triton", "triton"))
    return result


def torch_contenders(device: torch.device) -> list[Contender]:
    result = [from_head("torch eager", eager_head)]
    if device.type == "cuda":
        result.append(from_head("torch.compile", torch.compile(eager_head, dynamic=False)))
    return result


def liger_contenders() -> list[Contender]:
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

    def cross_entropy(hidden: torch.Tensor, weight: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        arguments = (hidden, weight, inputs.targets, None, None, -100, 0.0, 0.0, "sum")
        return LigerFusedLinearCrossEntropyFunction.apply(*arguments)[0]

    return [from_loss("liger fused linear CE", cross_entropy, negative_log_likelihood)]


def liger_scaled_contenders() -> list[Contender]:
    import cutlass  # noqa: F401  # without it Liger's Hopper kernel cannot run
    from liger_kernel.ops import LigerFusedLinearScaledCrossEntropyFunction

    def head(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> Outputs:
        arguments = (hidden, weight, targets, 1.0, -100, 1, True)
        nll, entropy = LigerFusedLinearScaledCrossEntropyFunction.apply(*arguments)[:2]
        return -nll, entropy

    return [from_head("liger scaled CE (CuTe, Hopper)", head)]


def cce_contenders() -> list[Contender]:
    from cut_cross_entropy import linear_cross_entropy

    def head(eps: str | None) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Outputs]:
        def run(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> Outputs:
            loss = linear_cross_entropy(hidden, weight, targets, reduction="none", filter_eps=eps)
            return -loss, None

        return run

    return [
        from_head("cut-cross-entropy", head("high"), outputs="log-prob"),
        from_head("cut-cross-entropy, no filter", head(None), outputs="log-prob"),
    ]


def trl_contenders() -> list[Contender]:
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    def head(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> Outputs:
        arguments = (hidden, weight, None, targets, 1.0, 32768, None, 1.0, ("entropy",))
        return ChunkedLogProbFunction.apply(*arguments)[:2]

    return [from_head("trl chunked log-prob", head)]


def all_contenders(device: torch.device) -> tuple[list[Contender], dict[str, str]]:
    """Contenders that can run here, and why the others cannot."""
    result, missing = own_contenders(device) + torch_contenders(device), {}
    if device.type != "cuda":
        return result, missing
    packages = {
        "liger-kernel": liger_contenders,
        "liger-kernel with cutlass-dsl": liger_scaled_contenders,
        "cut-cross-entropy": cce_contenders,
        "trl": trl_contenders,
    }
    for package, build in packages.items():
        try:
            result += build()
        except ImportError as error:
            missing[package] = str(error)
    return result, missing

"""What the fused head is asked to compute, what it returns, and the checks made before it starts.

No arithmetic lives here. Letters: N tokens, H hidden width, V vocabulary rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

_check_cuda_targets = False


@dataclass(frozen=True, slots=True)
class Problem:
    """One call: `softmax(softcap(hidden weight^T + bias) / temperature)` at `targets`.

    hidden [N, H] and weight [V, H] share one floating dtype; targets [N] int32 or int64;
    row_temperature [N] float32 replaces the scalar `temperature` where given; bias [V] or None;
    softcap c > 0 bends a logit r to c tanh(r / c). Rows whose target is `ignore_index` have
    log-prob, entropy and gradient 0.
    """

    hidden: torch.Tensor
    weight: torch.Tensor
    targets: torch.Tensor
    temperature: float = 1.0
    row_temperature: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    softcap: float | None = None
    ignore_index: int = -100

    @property
    def num_tokens(self) -> int:
        return self.hidden.shape[0]

    @property
    def vocab_size(self) -> int:
        return self.weight.shape[0]

    @property
    def statistics_dtype(self) -> torch.dtype:
        """The dtype of log-probs and entropies: float32, or float64 for float64 inputs."""
        return torch.float64 if self.hidden.dtype == torch.float64 else torch.float32

    def inverse_temperature(self) -> torch.Tensor:
        """1 / temperature per row, [N, 1] in the statistics' dtype."""
        if self.row_temperature is None:
            inverse = self.hidden.new_tensor(1.0 / self.temperature, dtype=self.statistics_dtype)
            return inverse.expand(self.num_tokens, 1)
        return self.row_temperature.to(self.statistics_dtype).reciprocal()[:, None]

    def select(self, rows: torch.Tensor | slice) -> Problem:
        """The same problem for some of its rows, by index [n] int64 or slice."""
        temperature = self.row_temperature
        return replace(
            self,
            hidden=self.hidden[rows],
            targets=self.targets[rows],
            row_temperature=None if temperature is None else temperature[rows],
        )


@dataclass(frozen=True, slots=True)
class Statistics:
    """Per row [N], in nats: log-prob of the target, entropy, and log-sum-exp of the scaled
    logits, which the backward pass needs.
    """

    logprobs: torch.Tensor
    entropy: torch.Tensor
    logsumexp: torch.Tensor

    def select(self, rows: torch.Tensor | slice) -> Statistics:
        return Statistics(self.logprobs[rows], self.entropy[rows], self.logsumexp[rows])


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which gradients the backward pass computes; the others cost nothing."""

    hidden: bool = True
    weight: bool = True
    bias: bool = False


@dataclass(frozen=True, slots=True)
class Gradients:
    """Gradients in the dtype of the tensor they belong to; None where not wanted."""

    hidden: torch.Tensor | None
    weight: torch.Tensor | None
    bias: torch.Tensor | None


@contextmanager
def check_cuda_targets() -> Iterator[None]:
    """Within, a target outside [0, V) on a GPU stops the program by a device-side assertion.

    CPU targets are always checked. On a GPU the check is off by default, and such a target yields
    a NaN log-prob; neither way makes the host wait for the device.
    """
    global _check_cuda_targets
    before, _check_cuda_targets = _check_cuda_targets, True
    try:
        yield
    finally:
        _check_cuda_targets = before


def check_arguments(problem: Problem) -> None:
    """Raises ValueError or TypeError that names the argument at fault."""
    hidden, weight, targets = problem.hidden, problem.weight, problem.targets
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden must be [N, H] and weight [V, H]; got {list(hidden.shape)} and "
            f"{list(weight.shape)}. Flatten batch and time before the call."
        )
    if targets.shape != hidden.shape[:1]:
        raise ValueError(
            f"targets must be [N] with N = {hidden.shape[0]}; got {list(targets.shape)}"
        )
    if targets.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"targets must be int32 or int64; got {targets.dtype}")
    if not hidden.dtype.is_floating_point or not weight.dtype.is_floating_point:
        raise TypeError(f"hidden and weight must be floating; got {hidden.dtype}, {weight.dtype}")
    if weight.shape[0] == 0 or weight.shape[1] == 0:
        raise ValueError(f"weight has no entries: {list(weight.shape)}")
    if problem.bias is not None and problem.bias.shape != weight.shape[:1]:
        raise ValueError(
            f"bias must be [V] with V = {weight.shape[0]}; got {list(problem.bias.shape)}"
        )
    if problem.softcap is not None and not 0 < problem.softcap < math.inf:
        raise ValueError(f"softcap must be positive and finite, or None; got {problem.softcap}")
    if weight.device != hidden.device or targets.device != hidden.device:
        raise ValueError(
            f"hidden, weight and targets must be on one device; got {hidden.device}, "
            f"{weight.device}, {targets.device}"
        )
    _check_temperature(problem)
    _check_targets(problem)


def _check_temperature(problem: Problem) -> None:
    rows = problem.row_temperature
    if rows is None:
        if not 0 < problem.temperature < math.inf:
            raise ValueError(
                f"temperature must be positive and finite; got {problem.temperature}. "
                "Greedy decoding has no distribution to differentiate."
            )
        return
    if rows.shape != problem.targets.shape:
        raise ValueError(
            f"a temperature tensor must be [N] with N = {problem.num_tokens}; "
            f"got {list(rows.shape)}"
        )
    if _is_eager_cpu(rows) and not bool((torch.isfinite(rows) & (rows > 0)).all()):
        raise ValueError("temperature must be positive and finite in every row")


def _check_targets(problem: Problem) -> None:
    targets = problem.targets
    on_cpu = _is_eager_cpu(targets)
    if not on_cpu and not (_check_cuda_targets and targets.is_cuda):
        return
    inside = (targets >= 0) & (targets < problem.vocab_size)
    valid = inside | (targets == problem.ignore_index)
    if not on_cpu:
        torch._assert_async(valid.all())  # pyright: ignore[reportPrivateImportUsage]
    elif not bool(valid.all()):
        worst = targets[~valid][0].item()
        raise ValueError(
            f"target {worst} is outside the vocabulary [0, {problem.vocab_size}) and is not "
            f"ignore_index ({problem.ignore_index})"
        )


def _is_eager_cpu(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()

"""What the fused head is asked to compute, what it returns, and the checks made before it starts.

No arithmetic lives here. Letters: N tokens, H hidden width, V vocabulary rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True, slots=True)
class HeadCall:
    """One call: `softmax(softcap(hidden weight^T + bias) / temperature)` at `targets`.

    hidden [N, H] and weight [V, H] floating, in one dtype once `checked`; targets [N] int32 or
    int64; temperature > 0; bias [V] or None; softcap c > 0 bends a logit r to c tanh(r / c).
    """

    hidden: torch.Tensor
    weight: torch.Tensor
    targets: torch.Tensor
    temperature: float = 1.0
    bias: torch.Tensor | None = None
    softcap: float | None = None

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

    def select(self, rows: torch.Tensor | slice) -> HeadCall:
        """The same call for some of its rows, by index [n] int64 or slice."""
        return replace(self, hidden=self.hidden[rows], targets=self.targets[rows])

    def checked(self) -> HeadCall:
        """The call with hidden and weight in one dtype; ValueError or TypeError for misuse."""
        _check_shapes(self)
        _check_values(self)
        dtype = torch.promote_types(self.hidden.dtype, self.weight.dtype)
        return replace(self, hidden=self.hidden.to(dtype), weight=self.weight.to(dtype))


@dataclass(frozen=True, slots=True)
class Statistics:
    """Per row [N], in nats: log-prob of the target, entropy, and log-sum-exp of the scaled
    logits, which the gradient needs.
    """

    logprobs: torch.Tensor
    entropy: torch.Tensor
    logsumexp: torch.Tensor

    @classmethod
    def empty(cls, call: HeadCall) -> Statistics:
        """Room for those of every row of a call."""
        size, dtype = call.num_tokens, call.statistics_dtype
        return cls(*(call.hidden.new_empty(size, dtype=dtype) for _ in range(3)))

    def write(self, rows: slice, part: Statistics) -> None:
        """Takes over the statistics of these rows."""
        self.logprobs[rows] = part.logprobs
        self.entropy[rows] = part.entropy
        self.logsumexp[rows] = part.logsumexp

    def select(self, rows: torch.Tensor | slice) -> Statistics:
        """Those of some rows: of a slice as views."""
        return Statistics(self.logprobs[rows], self.entropy[rows], self.logsumexp[rows])


@dataclass(frozen=True, slots=True)
class NeedsGrad:
    """Which gradients are computed; the others cost nothing."""

    hidden: bool
    weight: bool
    bias: bool

    @property
    def any(self) -> bool:
        return self.hidden or self.weight or self.bias


@dataclass(frozen=True, slots=True)
class Gradients:
    """Gradients; None where not needed."""

    hidden: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None

    def like(self, call: HeadCall) -> Gradients:
        """These, in the dtypes of the call's tensors."""
        pairs = (self.hidden, call.hidden), (self.weight, call.weight), (self.bias, call.bias)
        return Gradients(
            *(None if own is None or of is None else own.to(of.dtype) for own, of in pairs)
        )


def _check_shapes(call: HeadCall) -> None:
    hidden, weight, targets = call.hidden, call.weight, call.targets
    fits = hidden.dim() == weight.dim() == 2 and hidden.shape[1] == weight.shape[1]
    fits = fits and targets.shape == hidden.shape[:1] and weight.numel() > 0
    if not fits or (call.bias is not None and call.bias.shape != weight.shape[:1]):
        shapes = [
            None if tensor is None else list(tensor.shape)
            for tensor in (hidden, weight, targets, call.bias)
        ]
        raise ValueError(
            "hidden must be [N, H], weight [V, H] and not empty, targets [N], bias [V] or None; "
            f"got {shapes}"
        )


def _check_values(call: HeadCall) -> None:
    targets = call.targets
    if targets.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"targets must be int32 or int64; got {targets.dtype}")
    if call.softcap is not None and not 0 < call.softcap < math.inf:
        raise ValueError(f"softcap must be positive and finite, or None; got {call.softcap}")
    if not 0 < call.temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite; got {call.temperature}")
    # On a GPU such a target gives a NaN log-prob: the check would make the host wait.
    if targets.device.type == "cpu":
        outside = targets[(targets < 0) | (targets >= call.vocab_size)]
        if len(outside):
            raise ValueError(
                f"target {outside[0].item()} is outside the vocabulary [0, {call.vocab_size})"
            )

"""Bytes per trained parameter of weights, gradients and optimizer state, from how each optimizer
of `vibelite/training` keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OptimizerKind = Literal["adamw", "muon", "adamw_8bit", "adamw_8bit_paged", "adamw_cpu"]
WeightDtype = Literal["float32", "bfloat16", "float16"]
GradientDtype = Literal["float32", "bfloat16"]

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
FLOAT32 = BYTES["float32"]
# Two 8-bit moments, and a float32 scale for each 256 entries of each (bitsandbytes 0.50).
BYTES_8BIT_MOMENTS = 2 * (1 + 4 / 256)
# adamw_cpu: pinned buffers between host and device, four of 32 MiB in each direction.
HOST_BUFFER_BYTES = 8 * (32 << 20)
# The other kinds: float32 copies of bfloat16 gradients while they are used, a bucket at a time.
UPDATE_BUFFER_BYTES = 4 << 26


@dataclass(frozen=True, slots=True)
class ParameterBytes:
    """Bytes per trained parameter, by what they hold and where."""

    weights: float
    """On the device: what forward and backward read."""
    gradients: float
    """On the device, from the first backward pass of a step to its update."""
    masters: float
    """On the device: float32 values of 16-bit weights."""
    moments: float
    """On the device."""
    pageable: float
    """In memory that CUDA moves between device and host: on the device as long as it fits."""
    host: float
    """In ordinary host memory."""

    @property
    def device(self) -> float:
        """On the device during an update when the pageable part is not there."""
        return self.weights + self.gradients + self.masters + self.moments


def bytes_per_parameter(
    kind: OptimizerKind, dtype: WeightDtype, gradient_dtype: GradientDtype
) -> ParameterBytes:
    """What one trained parameter costs under an optimizer and a precision, in bytes.

    A frozen parameter costs its weight alone. Under `muon` this is a parameter of a layer's matrix;
    the others (embeddings, norms, biases) cost what they do under `adamw`. On a machine without a
    GPU device and host are the same memory, and adamw_cpu shares float32 weights with its masters:
    12 + gradients. Float32 / bfloat16 gradients, bytes on the device + on the host:

    | kind             | float32 weights | bfloat16 or float16 weights |
    |------------------|-----------------|-----------------------------|
    | adamw            | 16 / 14         | 18 / 16                     |
    | muon (a matrix)  | 12 / 10         | 14 / 12                     |
    | adamw_8bit       | 10 / 8          | 12 / 10                     |
    | adamw_8bit_paged | 8 / 6 (+ 2)     | 10 / 8 (+ 2)                |
    | adamw_cpu        | 4 + 16 / 4 + 14 | 2 + 16 / 2 + 14             |

    In parentheses the pageable part. Beyond these: `UPDATE_BUFFER_BYTES` on the device where
    gradients are bfloat16; for adamw_cpu `HOST_BUFFER_BYTES` of pinned memory, and on the device
    the gradient of the largest parameter at least.
    """
    is_low = dtype != "float32"
    gradient = BYTES[gradient_dtype]
    if kind == "adamw_cpu":
        return ParameterBytes(
            weights=BYTES[dtype], gradients=0, masters=0, moments=0, pageable=0, host=12 + gradient
        )
    moments = {"adamw": 8.0, "muon": 4.0, "adamw_8bit": BYTES_8BIT_MOMENTS}.get(kind, 0.0)
    return ParameterBytes(
        weights=BYTES[dtype],
        gradients=gradient,
        masters=4 if is_low else 0,
        moments=moments,
        pageable=BYTES_8BIT_MOMENTS if kind == "adamw_8bit_paged" else 0,
        host=0,
    )

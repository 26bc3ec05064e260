"""Checksums that tell whether two sets of tensors hold the same weights: of a few numbers spread
over each tensor, exact, and cheap enough for every sync. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

# Numbers read of each tensor. An update that leaves all of them as they were is one that 16-bit
# rounding lost nearly everywhere.
NUM_SAMPLES = 1024
# Odd, so that multiplying by it modulo 2^64 loses nothing.
MULTIPLIER = 0x2545F4914F6CDD1D
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}

Fingerprint = dict[str, int]


@torch.no_grad()
def fingerprint(
    tensors: Mapping[str, torch.Tensor], dtypes: Mapping[str, torch.dtype] | None = None
) -> Fingerprint:
    """A 64-bit checksum for each tensor, of NUM_SAMPLES numbers spread evenly over it, bit by bit.

    With `dtypes` numbers are rounded to that type first, as a copy into such a tensor rounds them.
    One transfer from the device.
    """
    samples: dict[torch.dtype, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        chosen = _spread(tensor.detach())
        if dtypes is not None:
            chosen = chosen.to(dtypes[name])
        samples.setdefault(chosen.dtype, {})[name] = chosen
    checksums = {}
    for group in samples.values():
        checksums |= zip(group, _checksums(list(group.values())).tolist(), strict=True)
    return {name: checksums[name] for name in tensors}


def difference(engine: Fingerprint, expected: Fingerprint) -> str | None:
    """Which of the engine's weights are not as expected; None where all are."""
    wrong = [name for name, value in expected.items() if engine.get(name) != value]
    if not wrong:
        return None
    places = f"{wrong[0]} and {len(wrong) - 1} more" if len(wrong) > 1 else wrong[0]
    return f"the engine's weights are not the trainer's ({places})"


def _spread(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.reshape(-1)
    return flat[:: max(1, len(flat) // NUM_SAMPLES)][:NUM_SAMPLES]


def _checksums(samples: list[torch.Tensor]) -> torch.Tensor:
    """sum_i bits_i (2 i + 1) MULTIPLIER modulo 2^64 of each of S tensors of one type, [S] int64."""
    device = samples[0].device
    lengths = torch.tensor([len(sample) for sample in samples], device=device)
    numbers = torch.cat(samples)
    bits = numbers.view(INTEGERS[numbers.element_size()]).to(torch.int64)
    owners = torch.arange(len(samples), device=device).repeat_interleave(lengths)
    places = torch.arange(len(bits), device=device) - (lengths.cumsum(0) - lengths)[owners]
    # Integer sums wrap, and do not depend on the order in which a GPU adds.
    sums = torch.zeros(len(samples), dtype=torch.int64, device=device)
    return sums.index_add_(0, owners, bits * ((2 * places + 1) * MULTIPLIER))

"""Which items a step uses, as a pure function of the step: the data cursor of a resumed run is its
step number.
"""

from __future__ import annotations

import torch


def indices_for_step(num_items: int, batch_size: int, step: int, *, seed: int) -> list[int]:
    """`batch_size` indices below `num_items` for the 0-based `step`: every epoch is one permutation
    of all items.

    An epoch's permutation depends on the seed and the epoch alone; a batch may run over the end of
    an epoch.
    """
    if num_items < 1:
        raise ValueError("there is nothing to draw from")
    permutations: dict[int, list[int]] = {}
    indices = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, offset = divmod(position, num_items)
        if epoch not in permutations:
            generator = torch.Generator().manual_seed((seed + 1_000_003 * epoch) % 2**63)
            permutations[epoch] = torch.randperm(num_items, generator=generator).tolist()
        indices.append(permutations[epoch][offset])
    return indices

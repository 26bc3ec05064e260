"""What one million tokens, one correct completion and one useful one cost.

Everything spent is divided by what came out of it: generating is not told apart from training,
since neither is of use alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from vibelite.types import Group

# Spans whose time goes to completions, whether or not they are of use.
SAMPLING_SPANS = ("rollout", "verify")


@dataclass(frozen=True, slots=True)
class UnitCosts:
    """USD per unit; None where the sum is unknown or nothing of the kind was made."""

    usd_per_million_generated: Decimal | None
    usd_per_million_trained: Decimal | None
    usd_per_correct: Decimal | None
    """Per correct completion."""
    usd_per_useful: Decimal | None
    """Per completion in a group of mixed outcomes: the others have no gradient."""
    zero_signal_share: float | None
    """Share of the cost that went into groups of equal outcomes: of sampling and verifying, their
    share of the generated tokens. None where no groups were sampled."""


def completion_counts(groups: list[Group]) -> dict[str, int]:
    """What `unit_costs` needs to know of a step's groups, for `Meter.add_counts`."""
    equal = [group for group in groups if group.num_correct in (0, len(group.verdicts))]
    num_completions = sum(len(group.completions) for group in groups)
    return {
        "num_completions": num_completions,
        "num_correct": sum(group.num_correct for group in groups),
        "num_useful": num_completions - sum(len(group.completions) for group in equal),
        "zero_signal_tokens": sum(
            len(completion.token_ids) for group in equal for completion in group.completions
        ),
        "group_tokens": sum(
            len(completion.token_ids) for group in groups for completion in group.completions
        ),
    }


def unit_costs(
    usd: Decimal | None,
    nanoseconds: Mapping[str, int],
    tokens: Mapping[str, int],
    counts: Mapping[str, int],
) -> UnitCosts:
    """`usd` and time (by span) over what was made with them.

    >>> costs = unit_costs(Decimal(6), {"rollout": 3, "train": 1}, {"generated": 500_000},
    ...                    {"num_correct": 2, "zero_signal_tokens": 1, "group_tokens": 3})
    >>> costs.usd_per_million_generated, costs.usd_per_correct, costs.zero_signal_share
    (Decimal('12'), Decimal('3'), 0.25)
    """

    def per(count: int, units: int = 1) -> Decimal | None:
        return None if usd is None or not count else usd * units / count

    share = None
    if counts.get("group_tokens"):
        sampling = sum(nanoseconds.get(span, 0) for span in SAMPLING_SPANS)
        of_tokens = counts["zero_signal_tokens"] / counts["group_tokens"]
        share = of_tokens * sampling / sum(nanoseconds.values())
    return UnitCosts(
        usd_per_million_generated=per(tokens.get("generated", 0), 1_000_000),
        usd_per_million_trained=per(tokens.get("trained", 0), 1_000_000),
        usd_per_correct=per(counts.get("num_correct", 0)),
        usd_per_useful=per(counts.get("num_useful", 0)),
        zero_signal_share=share,
    )

"""What a million tokens, a correct completion and a useful one cost, of all that was spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from vibelite.types import Group

# Spans whose time goes to completions, whether or not they are of use.
SAMPLING_SPANS = ("rollout", "verify")


def completion_counts(groups: Sequence[Group]) -> dict[str, int]:
    """What `unit_costs` needs to know of a step's groups, for `Meter.add_counts`. Useful are the
    completions in groups of mixed outcomes: the others have no gradient.
    """
    equal = [group for group in groups if not group.has_signal]
    num_completions = sum(len(group.completions) for group in groups)
    return {
        "num_completions": num_completions,
        "num_correct": sum(group.num_correct for group in groups),
        "num_useful": num_completions - sum(len(group.completions) for group in equal),
        "zero_signal_tokens": sum(sum(group.lengths) for group in equal),
        "group_tokens": sum(sum(group.lengths) for group in groups),
    }


def unit_costs(
    usd: Decimal | None, tokens: Mapping[str, int], counts: Mapping[str, int]
) -> dict[str, Decimal]:
    """USD per unit, of the units that were made; nothing where `usd` is unknown.

    >>> unit_costs(Decimal(6), {"generated": 500_000, "trained": 0}, {"num_correct": 2})
    {'1M generated': Decimal('12'), 'correct': Decimal('3')}
    """
    made = {
        "1M generated": (tokens.get("generated", 0), 1_000_000),
        "1M trained": (tokens.get("trained", 0), 1_000_000),
        "correct": (counts.get("num_correct", 0), 1),
        "useful": (counts.get("num_useful", 0), 1),
    }
    if usd is None:
        return {}
    return {name: usd * unit / count for name, (count, unit) in made.items() if count}


def zero_signal_share(nanoseconds: Mapping[str, int], counts: Mapping[str, int]) -> float | None:
    """Share of the cost (time by span) that went into groups of equal outcomes: of sampling and
    verifying, their share of the generated tokens. None where no groups were sampled.
    """
    if not counts.get("group_tokens"):
        return None
    sampling = sum(nanoseconds.get(span, 0) for span in SAMPLING_SPANS)
    share = counts["zero_signal_tokens"] / counts["group_tokens"]
    return share * sampling / sum(nanoseconds.values())

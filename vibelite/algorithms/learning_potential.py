"""Which verified traces a student learns most from (VibeThinker-3B report, offline
self-distillation). No torch.

The score of a trace is its negative log-likelihood under the student, in nats per token: near 0 the
student would have written it anyway, and the highest scores belong to broken traces.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles

# Tukey's fence: a score further above the third quartile than so many interquartile ranges.
FENCE = 1.5


@dataclass(frozen=True, slots=True)
class ScoredTrace:
    """What the choice depends on: where the trace belongs, its length, and its score in nats."""

    problem_id: str
    domain: str
    num_tokens: int
    score: float


@dataclass(frozen=True, slots=True)
class Selection:
    """The places of the chosen traces, in order, and how many were dropped for what."""

    chosen: list[int]
    dropped: dict[str, int]


def select_traces(
    traces: Sequence[ScoredTrace],
    *,
    min_tokens: int,
    num_length_buckets: int,
    keep_from: float,
    max_per_problem: int,
) -> Selection:
    """The middle-to-high band of every domain x length bucket.

    Traces shorter than `min_tokens` are dropped. The rest of a domain is cut by length into
    `num_length_buckets` buckets of equal size; in each, scores above Tukey's fence are dropped, and
    then the `keep_from` share with the lowest scores. Of one problem at most `max_per_problem`
    stay, those with the highest scores. Ties go to the earlier trace.
    """
    dropped: Counter[str] = Counter()
    long_enough = [i for i, trace in enumerate(traces) if trace.num_tokens >= min_tokens]
    dropped["short"] = len(traces) - len(long_enough)
    kept: list[int] = []
    for domain in dict.fromkeys(traces[i].domain for i in long_enough):
        members = [i for i in long_enough if traces[i].domain == domain]
        for bucket in length_buckets([traces[i].num_tokens for i in members], num_length_buckets):
            ranked = sorted((members[i] for i in bucket), key=lambda i: (traces[i].score, i))
            limit = fence([traces[i].score for i in ranked])
            inside = [i for i in ranked if traces[i].score <= limit]
            dropped["outlier"] += len(ranked) - len(inside)
            first = math.floor(keep_from * len(inside))
            dropped["easy"] += first
            kept += inside[first:]
    chosen: list[int] = []
    taken: Counter[str] = Counter()
    for i in sorted(kept, key=lambda i: (-traces[i].score, i)):
        if taken[traces[i].problem_id] < max_per_problem:
            taken[traces[i].problem_id] += 1
            chosen.append(i)
    dropped["repeated problem"] = len(kept) - len(chosen)
    return Selection(sorted(chosen), dict(dropped))


def length_buckets(lengths: Sequence[int], num_buckets: int) -> list[list[int]]:
    """Places of `lengths` in `num_buckets` buckets by rank, short ones first; none is empty.

    >>> length_buckets([30, 10, 20, 40], 2)
    [[1, 2], [0, 3]]
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    edges = [round(k * len(order) / num_buckets) for k in range(num_buckets + 1)]
    buckets = [order[start:end] for start, end in zip(edges, edges[1:], strict=False)]
    return [bucket for bucket in buckets if bucket]


def fence(scores: list[float]) -> float:
    """Third quartile + 1.5 interquartile ranges of `scores` (Tukey 1977), interpolated linearly."""
    low, _, high = quantiles(scores, n=4, method="inclusive") if len(scores) > 1 else scores * 3
    return high + FENCE * (high - low)

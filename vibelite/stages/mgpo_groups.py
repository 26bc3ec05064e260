"""Which problems a step of MGPO samples: those in their order, or those whose groups will likely
have a signal; and further ones in place of groups that turned out to have none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch

from vibelite.algorithms.pass_rates import mixed_probability, update_counts
from vibelite.data.batching import indices_for_step
from vibelite.recipe.stage_section import MGPOStage
from vibelite.stages.context import StageContext
from vibelite.types import Group, Problem


@dataclass(frozen=True, slots=True, eq=False)
class ProblemPool:
    """The problems of a stage, and what their groups have said; the same on all ranks."""

    problems: Sequence[Problem]
    counts: torch.Tensor | None
    """[P, 2] of `pass_rates`, changed in place; None = no memory."""
    stage: MGPOStage
    context: StageContext

    def first(self, step: int) -> list[int]:
        """Places of the problems that the step begins with."""
        number, seed = self.stage.problems_per_step, self.context.seed("order")
        if self.counts is None:
            return indices_for_step(len(self.problems), number, step, seed=seed)
        places: list[int] = []
        while len(places) < number:  # again from all, where there are fewer problems
            places += self.drawn(number - len(places), (), self.context.seed("draw", step, 0))
        return places

    def drawn(self, number: int, taken: Collection[int], seed: int) -> list[int]:
        """Places of `number` problems, none twice and none that is `taken`; of fewer where there
        are not so many.
        """
        weights = self.weights()
        weights[list(taken)] = 0
        number = min(number, int(weights.count_nonzero()))
        if not number:
            return []
        generator = torch.Generator().manual_seed(seed)
        return self.context.world.from_leader(
            lambda: torch.multinomial(weights, number, generator=generator).tolist()
        )

    def weights(self) -> torch.Tensor:
        """What a problem's chance to be drawn is in proportion to [P]; equal without memory."""
        if self.counts is None:
            return torch.ones(len(self.problems), dtype=torch.float64)
        floor = self.stage.memory.floor
        return floor + (1 - floor) * mixed_probability(self.counts, self.stage.group_size)

    def remember(self, places: Sequence[int], groups: Sequence[Group]) -> dict[str, float]:
        """Takes what all groups [N] of a step earned, whose problems are at `places` [N]; what had
        been expected of them, for the step's metrics.
        """
        if self.counts is None:
            return {}
        stage, rates = self.stage, [group.mean_reward for group in groups]
        expected = mixed_probability(self.counts[places], stage.group_size).mean().item()
        update_counts(self.counts, stage.memory.decay, places, rates, stage.group_size)
        return {"memory/expected_mixed": expected}


def sample_step(
    pool: ProblemPool,
    step: int,
    sample: Callable[[Sequence[Problem], int], list[Group]],
    has_signal: Callable[[Group], bool],
) -> tuple[list[int], list[Group], int]:
    """Places and groups of a step, as they were sampled, and the number of rounds of refill: while
    groups with a signal are missing, as many problems that the step has not had yet are sampled
    under the same weights. `sample`: the groups of problems, by the 0-based round.
    """
    places = pool.first(step)
    groups = sample([pool.problems[place] for place in places], 0)
    for number in range(1, pool.stage.refill.max_rounds + 1):
        missing = pool.stage.problems_per_step - sum(map(has_signal, groups))
        further = pool.drawn(missing, places, pool.context.seed("draw", step, number))
        if not further:
            return places, groups, number - 1
        groups += sample([pool.problems[place] for place in further], number)
        places += further
    return places, groups, pool.stage.refill.max_rounds

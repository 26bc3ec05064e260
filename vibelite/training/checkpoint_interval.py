"""How long to train between two saved states, and whether it is time for the next."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import median

from vibelite.recipe.run_section import Checkpoint

# Between two failures of the machine, on average: a guess for one that may be taken away.
SECONDS_BETWEEN_FAILURES = 24 * 3600.0


def best_interval(save_seconds: float, mtbf_seconds: float) -> float:
    """Seconds of training between two saves that lose least to saving and to redone work.

    Young's sqrt(2 C M) for a save of C seconds and a mean time M between failures (CACM 17(9),
    1974), with the higher-order terms of Daly (FGCS 22(3), 2006, eq. 37):
    sqrt(2 C M) (1 + sqrt(C / 2M) / 3 + C / 18M) - C where C < 2M, and M beyond.

    >>> round(best_interval(30.0, 86400.0))
    2257
    """
    assert save_seconds >= 0 and mtbf_seconds > 0, "durations"
    if save_seconds >= 2 * mtbf_seconds:
        return mtbf_seconds
    ratio = save_seconds / (2 * mtbf_seconds)
    young = math.sqrt(2 * save_seconds * mtbf_seconds)
    return young * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save_seconds


class SaveSchedule:
    """Says after which steps of a stage its training state is saved."""

    def __init__(
        self,
        settings: Checkpoint,
        *,
        every: int,
        num_steps: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`every` is the stage's number of steps between saves; `clock` returns seconds."""
        self._settings = settings
        self._every = every
        self._num_steps = num_steps
        self._clock = clock
        self._seconds: list[float] = []
        self._last_save = clock()

    def is_due(self, step: int) -> bool:
        """Whether to save after `step` finished steps; always after the last.

        By time, the first step is saved too: it measures what a save takes.
        """
        if step == self._num_steps:
            return True
        if self._settings.by == "steps":
            return step % self._every == 0
        if not self._seconds:
            return True
        interval = best_interval(median(self._seconds), SECONDS_BETWEEN_FAILURES)
        return self._clock() - self._last_save >= interval

    def saved(self, seconds: float) -> None:
        """Takes what the save that ends now took."""
        self._seconds.append(seconds)
        self._last_save = self._clock()

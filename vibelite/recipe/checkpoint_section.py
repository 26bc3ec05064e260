"""When the state to resume from is saved, and what is kept of it."""

from __future__ import annotations

from typing import Literal

from vibelite.recipe.section import NonNegativeFloat, PositiveFloat, PositiveInt, Section


class Checkpoint(Section):
    """Resumable training states. May be changed between runs: no result depends on it."""

    by: Literal["steps", "time"] = "steps"
    """steps = after every stage's `checkpoint_every` steps; time = as often as loses least, by
    what a save was measured to take and by `mtbf_hours` (Young)."""
    mtbf_hours: PositiveFloat = 24.0
    """Hours between two failures of the machine, on average; used by `by: time`. The default is a
    guess for a machine that may be taken away."""
    keep_last: PositiveInt = 2
    """States kept while a stage trains; the second is for when the newest turns out damaged."""
    free_gib: NonNegativeFloat = 1.0
    """GiB to leave free on the disk: a state or model that would take of them is not begun."""

"""A reward that random completions sometimes have, so that groups are mixed and weights move."""

import os
import time

PAUSE = float(os.environ.get("REWARD_SECONDS", "0"))
"""Makes a step long enough for a kill to meet it."""


def has_even_length(problem, text: str) -> float:
    time.sleep(PAUSE)
    return float(len(text) % 2 == 0)

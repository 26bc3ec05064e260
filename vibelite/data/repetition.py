"""Degenerate traces: text that repeats itself, as a model does that has fallen into a loop.

The VibeThinker-3B report (2.1) drops traces with repeated n-gram segments and gives no numbers; the
measure and its threshold are own. Legitimate mathematics repeats short phrases ("so x = 2"), hence
the long n-grams.
"""

from __future__ import annotations

from vibelite.data.normalise import word_forms

# Long enough that derivations which restate a formula are not counted.
REPETITION_WORDS = 16
# Texts of fewer words cannot show a loop.
MIN_WORDS = 64


def repeated_share(text: str) -> float:
    """Share (0..1) of the runs of REPETITION_WORDS words that stood in the text before: about 0.5
    for a loop that fills its second half, 0 for fewer than MIN_WORDS words.
    """
    words = word_forms(text)[0]
    if len(words) < MIN_WORDS:
        return 0.0
    runs = list(zip(*(words[offset:] for offset in range(REPETITION_WORDS)), strict=False))
    return 1 - len(set(runs)) / len(runs)

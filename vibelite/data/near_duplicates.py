"""Texts that are nearly the same as an earlier one, by MinHash. Needs the extra `dedup` (rensa).

Finds copies with small edits inside a training set. It is no decontamination by itself: a benchmark
problem inside a longer prompt has a low Jaccard similarity with it.
"""

from __future__ import annotations

import importlib
from typing import Any

from vibelite.data.normalise import without_instructions, word_forms
from vibelite.errors import DataError

SHINGLE_WORDS = 5
NUM_PERMUTATIONS = 128
SEED = 0
# How often a pair exactly at the threshold may be missed by the bands.
MISS_RATE = 1e-3


class NearDuplicates:
    """Remembers texts and finds those that are similar to one of them.

    `threshold` is the Jaccard similarity (0..1) of the sets of SHINGLE_WORDS words, estimated from
    NUM_PERMUTATIONS hashes (standard error 0.035 at 0.8). Memory grows by about 2 kB a text.
    """

    def __init__(self, threshold: float) -> None:
        try:
            # Its compiled module has no type information.
            rensa: Any = importlib.import_module("rensa")
        except ImportError as error:
            raise DataError(
                "near-duplicates need the package rensa: pip install 'vibelite[dedup]', or leave "
                "the option out"
            ) from error
        self._rensa = rensa
        self._threshold = threshold
        self._lsh = rensa.RMinHashLSH(threshold, NUM_PERMUTATIONS, num_bands(threshold))
        self._names: list[str] = []
        self._sketches: list[Any] = []

    def add(self, name: str, text: str) -> None:
        """Remembers `text` under `name`."""
        self._remember(name, self._sketch(text))

    def find_or_add(self, name: str, text: str) -> tuple[str, float] | None:
        """Name and similarity of the most similar text so far; if none reaches the threshold,
        remembers this one and returns None.
        """
        sketch = self._sketch(text)
        similar = [
            (float(sketch.jaccard(self._sketches[key])), -key) for key in self._lsh.query(sketch)
        ]
        similarity, key = max(similar, default=(0.0, 0))
        if similarity >= self._threshold:
            return self._names[-key], similarity
        self._remember(name, sketch)
        return None

    def _sketch(self, text: str) -> Any:
        words = word_forms(without_instructions(text))[0]
        sketch = self._rensa.RMinHash(NUM_PERMUTATIONS, SEED)
        sketch.update(
            [
                " ".join(words[start : start + SHINGLE_WORDS])
                for start in range(max(1, len(words) - SHINGLE_WORDS + 1))
            ]
        )
        return sketch

    def _remember(self, name: str, sketch: Any) -> None:
        self._lsh.insert(len(self._names), sketch)
        self._names.append(name)
        self._sketches.append(sketch)


def num_bands(threshold: float) -> int:
    """The fewest bands that miss a pair at `threshold` with at most MISS_RATE.

    b bands of r rows miss it with probability (1 - threshold^r)^b, b r = NUM_PERMUTATIONS
    (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", 3.4).
    """
    for rows in (32, 16, 8, 4, 2):
        bands = NUM_PERMUTATIONS // rows
        if (1 - threshold**rows) ** bands <= MISS_RATE:
            return bands
    return NUM_PERMUTATIONS

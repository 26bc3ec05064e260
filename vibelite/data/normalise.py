"""Text as the words that decontamination compares: no case, punctuation, layout or accents.

Punctuation is read in two ways, because copies of a problem differ in it: as a space ("9-kilometer"
are two words) and as nothing ("9kilometer" is one). A text that was respelled in one way throughout
agrees with the original in at least one of them. What the problems of one set all begin or end with
is a frame, no part of the problem.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

# Named in reports: a change of the rules below makes old and new n-grams incomparable.
NORMALISER = "nfkd-casefold-words/1"

_ASCII = [chr(code) for code in range(128)]
_SPLIT = {ord(c): c.lower() if c.isalnum() else " " for c in _ASCII}
_JOIN = {ord(c): c.lower() if c.isalnum() else " " if c.isspace() else None for c in _ASCII}
_WORD = re.compile(r"[^\W_]+")
_MARK = re.compile(r"[^\w\s]|_")
_PIECE = re.compile(r"(?<=[.!?\n])")
# Sentences that tell how to answer; every problem of a file ends, or begins, with the same ones.
_INSTRUCTION = re.compile(
    r"\\boxed\s*\{\s*\}|\bstep[ -]by[ -]step\b|\bfinal answer\b|\bchoice letter\b", re.IGNORECASE
)
# One of them is in every instruction; looking for them takes a fiftieth of the time.
_HINTS = ("boxed", "step", "final answer", "choice letter")
# A beginning or ending of at least so many words that so many items of one set share, and such a
# share of the set, is a frame around the problems and no part of them.
FRAME_WORDS = 5
FRAME_ITEMS = 3
FRAME_SHARE = 0.05
LONGEST_FRAME = 80
# Fewer words without a frame are no problem: "4" is an answer.
CUT_WORDS = 3


def word_forms(text: str) -> list[list[str]]:
    r"""The words of `text` with punctuation as a space, and with it as nothing where that differs.

    >>> word_forms("A 9-km Walk.")
    [['a', '9', 'km', 'walk'], ['a', '9km', 'walk']]
    """
    if text.isascii():
        split, joined = text.translate(_SPLIT).split(), text.translate(_JOIN).split()
    else:
        decomposed = unicodedata.normalize("NFKD", text)
        text = "".join(c for c in decomposed if not unicodedata.combining(c)).casefold()
        split, joined = _WORD.findall(text), _MARK.sub("", text).split()
    return [split] if split == joined else [split, joined]


def without_instructions(text: str) -> str:
    r"""`text` without the sentences that say in which form to answer.

    >>> without_instructions("What is 1+1? Put the final answer within \\boxed{}.")
    'What is 1+1?'
    """
    folded = text.casefold()
    if not any(hint in folded for hint in _HINTS) or not _INSTRUCTION.search(text):
        return text
    return "".join(piece for piece in _PIECE.split(text) if not _INSTRUCTION.search(piece))


@dataclass
class Frames:
    """Words that the problems of one set begin or end with, those of all sets together."""

    beginnings: set[tuple[str, ...]] = field(default_factory=set)
    endings: set[tuple[str, ...]] = field(default_factory=set)

    def whole_forms(self, text: str, forms: list[list[str]]) -> Iterator[str]:
        """`text`, whose `word_forms` are given, as it is compared from its first word to its last:
        as it stands, and without instructions and frames where CUT_WORDS are left. Symbols without
        a word are compared as they are written.
        """
        if not forms[0]:
            yield " ".join(text.split())
        yield from map(" ".join, forms)
        short = without_instructions(text)
        for words in forms if short == text else [*forms, *word_forms(short)]:
            cut = self._cut(words)
            if len(cut) >= CUT_WORDS:
                yield " ".join(cut)

    def _cut(self, words: list[str]) -> list[str]:
        end, start = len(words), 0
        for length in self._lengths[1]:
            if tuple(words[-length:]) in self.endings:
                end -= length
                break
        for length in self._lengths[0]:
            if tuple(words[:length]) in self.beginnings:
                start = length
                break
        return words[start:end]

    @cached_property
    def _lengths(self) -> list[list[int]]:
        """Of beginnings and endings, the longest first."""
        return [
            sorted(set(map(len, frames)), reverse=True)
            for frames in (self.beginnings, self.endings)
        ]


def without_frames(texts: Sequence[list[str]], frames: Frames) -> list[list[str]]:
    """Word lists without what they begin and end with (`shared_lengths`), which joins `frames`."""
    endings = shared_lengths([words[::-1] for words in texts])
    cut = [words[: len(words) - end] for words, end in zip(texts, endings, strict=True)]
    beginnings = shared_lengths(cut)
    for words, end, start in zip(texts, endings, beginnings, strict=True):
        frames.endings.update([tuple(words[len(words) - end :])] if end else [])
        frames.beginnings.update([tuple(words[:start])] if start else [])
    cut = [words[start:] for words, start in zip(cut, beginnings, strict=True)]
    return [short or words for short, words in zip(cut, texts, strict=True)]


def shared_lengths(texts: Sequence[Sequence[str]]) -> list[int]:
    """For each text how many of its first words are a frame: begun with by FRAME_ITEMS different
    texts (by both if there are two) and FRAME_SHARE of them all; 0 if fewer than FRAME_WORDS.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    different = {tuple(words) for words in texts}
    enough = max(2, min(FRAME_ITEMS, len(different)), FRAME_SHARE * len(different))
    for words in different:
        longest = min(len(words), LONGEST_FRAME)
        counts.update(words[:length] for length in range(FRAME_WORDS, longest + 1))
    lengths = []
    for words in texts:
        length = 0
        for tried in range(FRAME_WORDS, min(len(words), LONGEST_FRAME) + 1):
            if counts[tuple(words[:tried])] < enough:
                break
            length = tried
        lengths.append(length)
    return lengths

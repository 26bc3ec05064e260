"""Text as the words that decontamination compares: no case, punctuation, layout or accents.

Punctuation is read in two ways, because copies of a problem differ in it: as a space ("9-kilometer"
are two words) and as nothing ("9kilometer" is one). A text that was respelled in one way throughout
agrees with the original in at least one of them.
"""

from __future__ import annotations

import re
import unicodedata

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

"""Answers in words: what is one, and when two are the same."""

from __future__ import annotations

import re

_WORD = re.compile(r"[A-Za-z][A-Za-z' -]*")
_SHORT = ("yes", "no", "odd", "all", "any")
# "(C) 12", "\\text{C) }", "Option C": an option's letter and its text.
_LABEL = re.compile(
    r"\s*(?:\\(?:text(?:bf|rm)?|mathrm|mathbf)\s*\{\s*)?"
    r"(?:\(([A-E])\)|([A-E])\)|(?:[Oo]ption|[Cc]hoice)\s+\(?([A-E])\b)"
)


def is_words(text: str) -> bool:
    """A text of words, not a product of variables."""
    return bool(_WORD.fullmatch(text)) and (
        " " in text or len(text) > 3 or text.lower() in _SHORT or len(text) > 1 and text.isupper()
    )


def equal_words(first: str, second: str) -> bool:
    """The same words, whatever their case; single letters only in the same case."""
    return _plain(first) == _plain(second)


def option_letter(boxed: str) -> str:
    """The letter that an option begins with; "" for anything else."""
    label = _LABEL.match(boxed)
    return "" if label is None else label[1] or label[2] or label[3]


def _plain(text: str) -> str:
    words = " ".join(text.strip("() ").split())
    return words.casefold() if len(words) > 1 else words

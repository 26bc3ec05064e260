"""Texts of models, and too many of anything, cut down to what a page can show."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

SAMPLE_CHARACTERS = 2400
# Of the long texts the beginning is the smaller part: the answer stands at the end.
HEAD_SHARE = 0.4

# Control characters, bidirectional overrides and lone surrogates: shown by their code, never sent.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clip_texts(row: dict[str, Any]) -> dict[str, Any]:
    """The row with printable texts of bounded length."""
    return {
        key: clip(printable(value)) if isinstance(value, str) else value
        for key, value in row.items()
    }


def clip(text: str) -> str:
    """Beginning and end of a long text, and how much is left out between them."""
    if len(text) <= SAMPLE_CHARACTERS:
        return text
    head = round(SAMPLE_CHARACTERS * HEAD_SHARE)
    tail = SAMPLE_CHARACTERS - head
    left_out = len(text) - SAMPLE_CHARACTERS
    return f"{text[:head]}\n[... {left_out} characters left out ...]\n{text[-tail:]}"


def printable(text: str) -> str:
    r"""`text` with unprintable characters replaced by their code.

    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return UNPRINTABLE.sub(lambda match: ascii(match.group())[1:-1], text)


def evenly_spaced(items: Sequence[Any], limit: int) -> list[Any]:
    """At most `limit` of `items`, the first and the last included."""
    if len(items) <= limit:
        return list(items)
    if limit == 1:
        return [items[-1]]
    return [items[round(index * (len(items) - 1) / (limit - 1))] for index in range(limit)]

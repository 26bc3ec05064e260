"""The "did you mean" at the end of a message about a wrong name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_LISTED = 12


def did_you_mean(wrong: str, names: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest of `names`, else the list of names, or nothing.

    >>> did_you_mean("mpgo", ["sft", "mgpo"])
    "; did you mean 'mgpo'?"
    >>> did_you_mean("zzz", ["sft", "mgpo"])
    '; known: sft, mgpo'
    """
    names = list(names)
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    if not names:
        return ""
    more = ", ..." if len(names) > MAX_LISTED else ""
    return f"; known: {', '.join(names[:MAX_LISTED])}{more}"

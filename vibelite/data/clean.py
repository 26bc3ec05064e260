"""Which training rows must go, and why: repeated evaluation problems, loops, near-duplicates.

`Cleaner` judges rows one by one; `vibelite.data.clean_file` streams files through it, and the
stages their problem sets and traces.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from vibelite.data.decontaminate import NGRAM_WORDS, EvaluationItem, build_index
from vibelite.data.filters import REPETITION_WORDS, repeated_run, repeated_share
from vibelite.data.near_duplicates import NearDuplicates
from vibelite.data.normalise import NORMALISER
from vibelite.types import Problem, Trace


@dataclass(frozen=True, slots=True)
class Text:
    """One text of a training row; those that a model would learn to write are answers."""

    content: str
    is_answer: bool = False


@dataclass(frozen=True, slots=True)
class CleaningRules:
    """`max_repetition`: answers with a larger `repeated_share` go (1 = none); `near_duplicates`:
    rows at least so similar to an earlier one go (0 = none).
    """

    max_repetition: float = 1.0
    near_duplicates: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "normaliser": NORMALISER,
            "ngram_words": NGRAM_WORDS,
            "repetition_words": REPETITION_WORDS,
            "max_repetition": self.max_repetition,
            "near_duplicates": self.near_duplicates,
        }


@dataclass(slots=True)
class Tally:
    """How many rows were seen, and every dropped row with its reason."""

    num_rows: int = 0
    dropped: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "num_rows": self.num_rows,
            "num_kept": self.num_rows - len(self.dropped),
            "num_dropped": len(self.dropped),
            "by_rule": dict(Counter(row["rule"] for row in self.dropped)),
            "by_set": dict(Counter(row["against"] for row in self.dropped if row.get("against"))),
        }


class Cleaner:
    """Judges training rows against evaluation items."""

    def __init__(self, items: Sequence[EvaluationItem], rules: CleaningRules) -> None:
        self.items = items
        self.rules = rules
        self.index = build_index(items)
        self.tally = Tally()
        self._similar = NearDuplicates(rules.near_duplicates) if rules.near_duplicates else None
        if self._similar:
            for item in items:
                self._similar.add(f"{item.source}: {item.id}", item.text)

    def keeps(self, row_id: str, texts: Sequence[Text]) -> bool:
        """Whether the row may be trained on; counts it, and notes why it may not."""
        number = self.tally.num_rows
        self.tally.num_rows += 1
        reason = self._reason(row_id, texts)
        if reason is None:
            return True
        self.tally.dropped.append({"row": number, "id": row_id, **reason})
        return False

    def _reason(self, row_id: str, texts: Sequence[Text]) -> dict[str, Any] | None:
        for text in texts:
            if match := self.index.find(text.content):
                return match.as_json()
        for text in texts:
            if not text.is_answer or self.rules.max_repetition >= 1:
                continue
            share = repeated_share(text.content)
            if share > self.rules.max_repetition:
                run = repeated_run(text.content)
                return {"rule": "repetition", "repeated_share": round(share, 4), "text": run}
        if self._similar:
            whole = "\n".join(text.content for text in texts)
            if found := self._similar.find_or_add(row_id, whole):
                like, similarity = found
                return {"rule": "near_duplicate", "item": like, "similarity": round(similarity, 4)}
        return None


def evaluation_items(name: str, problems: Iterable[Problem]) -> Iterator[EvaluationItem]:
    """The questions of problems; what a system message says is no part of them."""
    for problem in problems:
        asked = [message for message in problem.messages if message["role"] != "system"]
        text = "\n".join(message["content"] for message in asked)
        yield EvaluationItem(name, problem.id, text)


def texts_of(row: Problem | Trace) -> list[Text]:
    """The messages of a problem or a trace."""
    return [Text(m["content"], m["role"] == "assistant") for m in row.messages]


def describe_items(items: Iterable[EvaluationItem]) -> list[dict[str, Any]]:
    """Number of items and SHA-256 over their texts, for each source."""
    hashes: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    for item in items:
        digest = hashes.setdefault(item.source, hashlib.sha256())
        digest.update(json.dumps([item.id, item.text]).encode())
        counts[item.source] += 1
    return [
        {"name": name, "num_items": counts[name], "sha256": digest.hexdigest()}
        for name, digest in hashes.items()
    ]

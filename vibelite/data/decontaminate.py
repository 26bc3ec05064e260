"""Which training rows must go: those that share 10 words in a row with an evaluation problem, and
answers that repeat themselves. `Cleaner` judges rows one by one, for stages and for files.

The rule is the VibeThinker report's (3.5): text is normalised, and a training sample that shares a
10-gram with an evaluation problem is dropped. Not evidence are (own) the sentence that says how to
answer, words that many problems of one evaluation set begin or end with, and n-grams that several
evaluation problems have in common, with what is mostly made of them. Without this the instruction
at the end of a public benchmark would drop every prompt that ends with it too. A text that is a
problem from its first word to its last is always evidence, however short, and read with and without
those beginnings and endings.

Only the evaluation side is kept in memory. N-grams are compared as text.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import Any, Literal

from vibelite.data.normalise import (
    NORMALISER,
    Frames,
    without_frames,
    without_instructions,
    word_forms,
)
from vibelite.types import Problem, Trace

# Report 3.5.
NGRAM_WORDS = 10
# Two items that share this much of the shorter one are copies of one problem, whose n-grams are
# not "common to several problems".
SAME_PROBLEM_SHARE = 0.5
# An n-gram of more owners than this says nothing about which of them are copies.
MAX_OWNERS = 20
# A stretch of so many words is no phrase: it is evidence even if two problems begin with it.
PASSAGE_WORDS = 30
# An n-gram is evidence if at least so many of its words lie outside the common n-grams.
OWN_WORDS = 5
# ... and if it has so many letters and digits: "1 2 3 4 5 6 7 8 9 10" and the corners of a polygon
# stand in many problems.
OWN_CHARS = 15
# Repetition: the report (3B, 2.1) gives no numbers; these are own. Mathematics repeats short
# phrases ("so x = 2") and restates formulas, hence long runs; fewer words cannot show a loop.
REPETITION_WORDS = 16
MIN_WORDS = 64


@dataclass(frozen=True, slots=True)
class EvaluationItem:
    """One problem that must not be trained on; `source` names its file or set."""

    source: str
    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Match:
    """What a training text shares with an evaluation item, in normalised words."""

    rule: Literal["ngram", "whole_text"]
    source: str
    item: str
    text: str

    def as_json(self) -> dict[str, Any]:
        found = {"rule": self.rule, "against": self.source, "item": self.item}
        return {**found, "text": self.text}


@dataclass(frozen=True, slots=True)
class ContaminationIndex:
    """What of evaluation items is evidence: n-grams (words joined by spaces) and whole texts (what
    `Frames.whole_forms` makes of an item), each with the first item that has it.

    `vocabulary` holds every word of `ngrams`; `num_short`, by source, how many items have no n-gram
    of their own and are found only as a whole text.
    """

    ngrams: dict[str, EvaluationItem]
    whole_texts: dict[str, EvaluationItem]
    frames: Frames
    vocabulary: frozenset[str]
    num_short: dict[str, int]

    def find(self, text: str) -> Match | None:
        """The first item that `text` repeats, or None. Linear in the length of `text`."""
        forms = word_forms(text)
        for words in forms:
            if gram := self._shared_ngram(words):
                item = self.ngrams[gram]
                return Match("ngram", item.source, item.id, gram)
        return self.find_whole(text, forms)

    def find_whole(self, text: str, forms: list[list[str]]) -> Match | None:
        """The item that `text` is from its first word to its last; `forms` are its words."""
        for whole in self.frames.whole_forms(text, forms):
            if item := self.whole_texts.get(whole):
                return Match("whole_text", item.source, item.id, whole)
        return None

    def _shared_ngram(self, words: Sequence[str]) -> str:
        run = 0
        for end, word in enumerate(words, start=1):
            run = run + 1 if word in self.vocabulary else 0
            if run >= NGRAM_WORDS:
                gram = " ".join(words[end - NGRAM_WORDS : end])
                if gram in self.ngrams:
                    return gram
        return ""


def build_index(items: Sequence[EvaluationItem]) -> ContaminationIndex:
    """The index of `items`; those with the same words count once, for the first of them."""
    problems, forms, frames = distinct(items)
    owners: dict[str, list[int]] = defaultdict(list)
    for index, texts in enumerate(forms):
        for gram in dict.fromkeys(gram for words in texts for gram in windows(words)):
            owners[gram].append(index)
    problem_of = group_copies(owners, [sum(len(windows(w)) for w in texts) for texts in forms])
    common = {
        gram for gram, owned in owners.items() if len({problem_of[index] for index in owned}) > 1
    }
    ngrams: dict[str, EvaluationItem] = {}
    num_short: Counter[str] = Counter()
    for item, texts in zip(problems, forms, strict=True):
        evidence = [gram for words in texts for gram in own_ngrams(words, common)]
        num_short[item.source] += not evidence
        for gram in evidence:
            ngrams.setdefault(gram, item)
    vocabulary = frozenset(word for gram in ngrams for word in gram.split())
    whole_texts: dict[str, EvaluationItem] = {}
    for item in items:
        for whole in filter(None, frames.whole_forms(item.text, word_forms(item.text))):
            whole_texts.setdefault(whole, item)
    return ContaminationIndex(ngrams, whole_texts, frames, vocabulary, dict(num_short))


def distinct(
    items: Sequence[EvaluationItem],
) -> tuple[list[EvaluationItem], list[list[list[str]]], Frames]:
    """Items of different words, their words in both forms without frames, and these frames."""
    frames = Frames()
    by_source: dict[str, list[EvaluationItem]] = defaultdict(list)
    for item in items:
        by_source[item.source].append(item)
    found: dict[str, tuple[EvaluationItem, list[list[str]]]] = {}
    for group in by_source.values():
        texts = [
            forms if forms[0] else word_forms(item.text)
            for item in group
            for forms in [word_forms(without_instructions(item.text))]
        ]
        # The two readings of punctuation are different texts: frames are told apart by reading.
        split = without_frames([forms[0] for forms in texts], frames)
        joined = without_frames([forms[-1] for forms in texts], frames)
        for item, *both in zip(group, split, joined, strict=True):
            unique = both[:1] if both[0] == both[1] else both
            found.setdefault(" ".join(unique[0]), (item, unique))
    found.pop("", None)
    return [item for item, _ in found.values()], [forms for _, forms in found.values()], frames


def group_copies(owners: dict[str, list[int]], num_ngrams: Sequence[int]) -> list[int]:
    """For each item the index of the first item that is a copy of it (SAME_PROBLEM_SHARE)."""
    pairs: Counter[tuple[int, int]] = Counter()
    for owned in owners.values():
        if 1 < len(owned) <= MAX_OWNERS:
            pairs.update(combinations(owned, 2))
    parent = list(range(len(num_ngrams)))

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    for (first, second), shared in sorted(pairs.items()):
        if shared >= SAME_PROBLEM_SHARE * min(num_ngrams[first], num_ngrams[second]):
            low, high = sorted((root(first), root(second)))
            parent[high] = low
    return [root(index) for index in range(len(num_ngrams))]


def own_ngrams(words: Sequence[str], common: set[str]) -> list[str]:
    """The n-grams with OWN_WORDS words outside of common phrases and OWN_CHARS characters."""
    grams = windows(words)
    is_own = [True] * len(words)
    for is_common, stretch in groupby(range(len(grams)), lambda start: grams[start] in common):
        first, *_, last = [*stretch] * 2
        if is_common and last + NGRAM_WORDS - first < PASSAGE_WORDS:
            is_own[first : last + NGRAM_WORDS] = [False] * (last + NGRAM_WORDS - first)
    return [
        gram
        for start, gram in enumerate(grams)
        if sum(is_own[start : start + NGRAM_WORDS]) >= OWN_WORDS
        and len(gram) >= OWN_CHARS + NGRAM_WORDS - 1
    ]


def windows(words: Sequence[str]) -> list[str]:
    """Every run of NGRAM_WORDS words, joined by spaces."""
    return [
        " ".join(words[start : start + NGRAM_WORDS])
        for start in range(len(words) - NGRAM_WORDS + 1)
    ]


def repeated_share(text: str) -> float:
    """Share (0..1) of the runs of REPETITION_WORDS words that stood in the text before: about 0.5
    for a loop that fills its second half, 0 for fewer than MIN_WORDS words.
    """
    words = word_forms(text)[0]
    if len(words) < MIN_WORDS:
        return 0.0
    runs = list(zip(*(words[offset:] for offset in range(REPETITION_WORDS)), strict=False))
    return 1 - len(set(runs)) / len(runs)


@dataclass(frozen=True, slots=True)
class Text:
    """One text of a training row; those that a model would learn to write are answers."""

    content: str
    is_answer: bool = False


class Cleaner:
    """Judges training rows against evaluation items; answers with a `repeated_share` above
    `max_repetition` (1 = no limit) go too. `dropped` holds every dropped row with its reason.
    """

    def __init__(self, items: Sequence[EvaluationItem], max_repetition: float = 1.0) -> None:
        self.index = build_index(items)
        self.max_repetition = max_repetition
        self.num_rows = 0
        self.dropped: list[dict[str, Any]] = []

    def keeps(self, row_id: str, texts: Sequence[Text]) -> bool:
        """Whether the row may be trained on; counts it, and notes why it may not."""
        reason = self._reason(texts)
        if reason is not None:
            self.dropped.append({"row": self.num_rows, "id": row_id, **reason})
        self.num_rows += 1
        return reason is None

    def counts(self) -> dict[str, Any]:
        return {
            "num_rows": self.num_rows,
            "num_kept": self.num_rows - len(self.dropped),
            "num_dropped": len(self.dropped),
            "by_rule": dict(Counter(row["rule"] for row in self.dropped)),
            "by_set": dict(Counter(row["against"] for row in self.dropped if row.get("against"))),
        }

    def _reason(self, texts: Sequence[Text]) -> dict[str, Any] | None:
        for text in texts:
            if match := self.index.find(text.content):
                return match.as_json()
        # A problem of several messages is an item as one text.
        asked = [text.content for text in texts if not text.is_answer]
        for parts in (asked, [text.content for text in texts]):
            whole = "\n".join(parts)
            if len(parts) > 1 and (match := self.index.find_whole(whole, word_forms(whole))):
                return match.as_json()
        for text in texts:
            if text.is_answer and self.max_repetition < 1:
                share = repeated_share(text.content)
                if share > self.max_repetition:
                    return {"rule": "repetition", "repeated_share": round(share, 4)}
        return None


def rules_as_json(max_repetition: float) -> dict[str, Any]:
    """By what rows are judged; a change makes older reports incomparable."""
    return {
        "normaliser": NORMALISER,
        "ngram_words": NGRAM_WORDS,
        "whole_texts": "with and without frames",
        "repetition_words": REPETITION_WORDS,
        "max_repetition": max_repetition,
    }


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

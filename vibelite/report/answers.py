"""Answers of the first and of the last evaluated model to the same problems, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vibelite.report.texts import clip_texts, evenly_spaced

NUM_SHOWN = 8
# From these the shown ones are taken, evenly spaced.
MAX_PROBLEMS = 400


@dataclass(slots=True)
class Answers:
    """Of two models on one benchmark: problem id -> the row of its first sample."""

    benchmark: str
    names: tuple[str, str]
    rows: tuple[dict[str, Any], dict[str, Any]] = field(default_factory=lambda: ({}, {}))

    def pairs(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """The samples of evenly spaced problems that both models answered."""
        both = [problem for problem in self.rows[0] if problem in self.rows[1]]
        return [
            (self.rows[0][problem], self.rows[1][problem])
            for problem in evenly_spaced(both, NUM_SHOWN)
        ]


class AnswerBook:
    """Takes what it needs from the samples of evaluate stages, as others read them."""

    def __init__(self, results: Sequence[Mapping[str, Any]], keys: Mapping[str, str]) -> None:
        """`results`: as `collect_results`; `keys`: as `model_keys`."""
        self.answers: list[Answers] = []
        self._sides: dict[str, dict[str, Any]] = {}
        for benchmark in dict.fromkeys(row["benchmark"] for row in results):
            models = [row["stage"] for row in results if row["benchmark"] == benchmark]
            known = [name for name in models if name in keys]
            if len(known) > 1:
                names = (known[0], known[-1])
                answers = Answers(benchmark, names)
                self.answers.append(answers)
                for name, rows in zip(names, answers.rows, strict=True):
                    self._sides[f"{benchmark}--{keys[name]}"] = rows

    def noting(self, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """`rows` as they are."""
        for row in rows:
            side = self._sides.get(row.get("key", ""))
            if side is not None and len(side) < MAX_PROBLEMS and row["problem_id"] not in side:
                side[row["problem_id"]] = clip_texts(row)
            yield row

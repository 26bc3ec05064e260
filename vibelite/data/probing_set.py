"""Probing sets: problems of named sub-domains, as many of each, that specialists are chosen on.

What is here needs no model: reading labelled tables, balancing, and the list that a person checks.
Votes of a model on sub-domains and answers come from `vibelite.stages.problem_votes`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vibelite.data.clean import Cleaner, CleaningRules, texts_of
from vibelite.data.decontaminate import EvaluationItem
from vibelite.data.rows import Rows, problem_from_row, read_rows
from vibelite.data.sources import hub_rows, load_problems
from vibelite.errors import DataError
from vibelite.recipe.data_section import ProblemFile, ProblemHub
from vibelite.run_dir import write_json_atomic, write_jsonl_atomic, write_text_atomic
from vibelite.types import Problem

# Subjects of MATH as the report's four sub-domains of mathematics (VibeThinker report 3.3, which
# does not say how it labels); number theory is none of them. MATH has no calculus: Precalculus is
# what comes nearest.
MATH_SUBJECTS = {
    "Prealgebra": "algebra",
    "Algebra": "algebra",
    "Intermediate Algebra": "algebra",
    "Geometry": "geometry",
    "Precalculus": "calculus",
    "Counting & Probability": "statistics",
}
SHOWN_CHARS = 240
# What stands in for the answer of a row that has none.
NO_ANSWER = "?"
_NO_ANSWER_COLUMN = "answer of a model's majority"


@dataclass(frozen=True, slots=True)
class Vote:
    """What the samples of one question say: `winner` None without a single most frequent one.

    `counts` of every answer; samples without one are in `num_samples` alone.
    """

    winner: str | None
    counts: dict[str, int]
    num_samples: int

    @property
    def agreement(self) -> float:
        """Share of all samples that say the most frequent answer, 0..1."""
        return max(self.counts.values(), default=0) / self.num_samples


@dataclass(frozen=True, slots=True)
class Candidate:
    """A problem that may enter the set, and how a model voted on it, where it was asked."""

    problem: Problem
    label: Vote | None = None
    answer: Vote | None = None


@dataclass(frozen=True, slots=True)
class ProbingRequest:
    """Which problems of a table make a set.

    `subdomains`: value of the sub-domain's column -> sub-domain, or the names that a model votes
    on; empty = the column's own values. `per_subdomain` None = as many as the rarest has; `limit`:
    only so many problems are looked at.
    """

    table: ProblemFile | ProblemHub
    subdomains: dict[str, str]
    without_answers: bool = False
    per_subdomain: int | None = None
    limit: int | None = None
    seed: int = 0


@dataclass(slots=True)
class Tally:
    """How many problems were looked at, and why some are not in the set."""

    num_candidates: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


def count_votes(said: Sequence[str | None]) -> Vote:
    """The vote of samples, each with its answer; None = none.

    >>> count_votes(["a", "b", "a", None])
    Vote(winner='a', counts={'a': 2, 'b': 1}, num_samples=4)
    """
    counts = Counter(answer for answer in said if answer is not None)
    ranked = counts.most_common()
    is_clear = len(ranked) == 1 or (len(ranked) > 1 and ranked[0][1] > ranked[1][1])
    return Vote(ranked[0][0] if is_clear else None, dict(ranked), len(said))


def read_subdomains(text: str) -> dict[str, str]:
    """Value of a column -> sub-domain: "math", a .json file, or "Algebra=algebra,geometry", where a
    bare name stands for itself.
    """
    if text == "math":
        return dict(MATH_SUBJECTS)
    if text.endswith(".json"):
        try:
            table = json.loads(Path(text).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"--subdomains {text}: {error}") from error
        if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
            raise DataError(f"--subdomains {text}: must hold an object of texts")
        return table
    pairs = [part.partition("=") for part in map(str.strip, text.split(",")) if part]
    return {value.strip(): (name if equals else value).strip() for value, equals, name in pairs}


def find_problems(
    request: ProbingRequest, items: Sequence[EvaluationItem], tally: Tally
) -> tuple[list[Problem], list[dict[str, Any]]]:
    """The problems that the set is chosen from, in an order that depends on ids and seed alone, and
    those that repeat one of the evaluation `items`, with the matching text.
    """
    if request.without_answers:
        problems = read_questions(request.table, tally)
    else:
        problems = read_problems(request, tally)
    problems = without_repeats(seeded_order(problems, request.seed), tally)
    cleaner = Cleaner(items, CleaningRules())
    if items:
        problems = [problem for problem in problems if cleaner.keeps(problem.id, texts_of(problem))]
    tally.dropped["an evaluation problem"] += len(cleaner.tally.dropped)
    tally.dropped["beyond the limit"] += max(0, len(problems) - (request.limit or len(problems)))
    return problems[: request.limit], cleaner.tally.dropped


def read_problems(request: ProbingRequest, tally: Tally) -> list[Problem]:
    """The problems of the table; where its rows have sub-domains, those of `request.subdomains`.

    Raises DataError for a sub-domain that no row has.
    """
    table, is_labelled = request.table, request.table.columns.subdomain is not None
    if is_labelled:
        columns = table.columns.model_copy(update={"subdomains": request.subdomains})
        table = table.model_copy(update={"columns": columns})
    problems = load_problems(table, recipe_dir=Path.cwd(), seed=0)
    tally.num_candidates = len(problems)
    if not (is_labelled and request.subdomains):
        return problems
    names, found = set(request.subdomains.values()), {problem.subdomain for problem in problems}
    if missing := names - found:
        raise DataError(
            f"{table.path}: no row is of the sub-domain {', '.join(sorted(missing))}; the column "
            f"{table.columns.subdomain} gives: {', '.join(sorted(found))}"
        )
    kept = [problem for problem in problems if problem.subdomain in names]
    tally.dropped["another sub-domain"] += len(problems) - len(kept)
    return kept


def read_questions(source: ProblemFile | ProblemHub, tally: Tally) -> list[Problem]:
    """The problems of a table without answers; each has NO_ANSWER until a model has voted."""
    rows = (
        hub_rows(source, recipe_dir=Path.cwd())
        if isinstance(source, ProblemHub)
        else read_rows(Path(source.path))
    )
    columns = source.columns.model_copy(update={"answer": _NO_ANSWER_COLUMN})
    unanswered = source.model_copy(update={"columns": columns, "verifier": "exact"})
    table = [_with_stand_in(row, rows, index) for index, row in enumerate(rows.table)]
    rows = Rows(rows.name, table, rows.places)
    problems = [problem_from_row(row, unanswered, rows, i) for i, row in enumerate(table)]
    if not problems:
        raise DataError(f"{rows.name}: no rows")
    tally.num_candidates = len(problems)
    return problems


def _with_stand_in(row: Any, rows: Rows, index: int) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{rows.at(index)}: expected an object, found {type(row).__name__}")
    return {**row, _NO_ANSWER_COLUMN: NO_ANSWER}


def without_repeats(problems: Iterable[Problem], tally: Tally) -> list[Problem]:
    """The first of all problems whose questions have the same letters and digits."""
    first: dict[str, Problem] = {}
    num_seen = 0
    for problem in problems:
        num_seen += 1
        text = "".join(filter(str.isalnum, problem.messages[-1]["content"])).casefold()
        first.setdefault(text or problem.messages[-1]["content"], problem)
    tally.dropped["repeated"] += num_seen - len(first)
    return list(first.values())


def seeded_order(problems: Iterable[Problem], seed: int) -> list[Problem]:
    """The problems in an order that depends on their ids and the seed alone."""
    return sorted(
        problems, key=lambda p: hashlib.sha256(f"probing/{seed}/{p.id}".encode()).digest()
    )


def choose(
    candidates: Sequence[Candidate], request: ProbingRequest, tally: Tally
) -> list[Candidate]:
    """The first candidates of each sub-domain, as many of all.

    Raises DataError for a sub-domain without any.
    """
    found = sorted({candidate.problem.subdomain for candidate in candidates})
    members = {
        name: [candidate for candidate in candidates if candidate.problem.subdomain == name]
        for name in request.subdomains.values() or found
    }
    rarest = min(members, key=lambda name: len(members[name]), default="")
    number = len(members.get(rarest, []))
    if not number:
        there = {name: len(of_name) for name, of_name in members.items()}
        raise DataError(
            f"nothing is left of the sub-domain {rarest!r}: {there}; dropped: "
            f"{dict(+tally.dropped)}"
        )
    number = min(number, request.per_subdomain or number)
    chosen = [candidate for of_name in members.values() for candidate in of_name[:number]]
    tally.dropped["beyond the number of each"] += len(candidates) - len(chosen)
    return chosen


def write_set(
    chosen: Sequence[Candidate],
    request: ProbingRequest,
    output: Path,
    tally: Tally,
    details: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes the set to `output` (.jsonl), its list beside it (.md) and its report (.report.json),
    which also holds the `details`; returns the report.
    """
    report = {
        "output": str(output),
        "list": str(output.with_suffix(".md")),
        "source": request.table.path,
        "verifier": request.table.verifier,
        "seed": request.seed,
        "num_candidates": tally.num_candidates,
        "dropped": dict(+tally.dropped),
        "num_problems": len(chosen),
        "subdomains": dict(Counter(candidate.problem.subdomain for candidate in chosen)),
        **details,
    }
    write_jsonl_atomic(output, [as_row(candidate) for candidate in chosen])
    write_text_atomic(output.with_suffix(".md"), as_markdown(chosen, report))
    write_json_atomic(output.with_suffix(".report.json"), report)
    return report


def as_row(candidate: Candidate) -> dict[str, Any]:
    """One line of the set: what a recipe reads, and the votes."""
    problem = candidate.problem
    row: dict[str, Any] = {
        "id": problem.id,
        "subdomain": problem.subdomain,
        "prompt": list(problem.messages),
        "answer": problem.answer,
    }
    for name, vote in (("label", candidate.label), ("answer", candidate.answer)):
        if vote is not None:
            row[f"{name}_votes"] = vote.counts
            row[f"{name}_agreement"] = round(vote.agreement, 4)
    return row


def as_markdown(candidates: Sequence[Candidate], report: Mapping[str, Any]) -> str:
    """The list that a person goes through: questions by sub-domain with their answers and votes;
    the ones on which the votes are least sure, or against the answer, come first.
    """
    by_name: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_name.setdefault(candidate.problem.subdomain, []).append(candidate)
    lines = [
        f"# {report['num_problems']} problems of {report['source']}",
        "",
        f"Seed {report['seed']}; {report['num_candidates']} rows; left out: {report['dropped']}.",
        f"Votes: {report['model'] or 'none'}.",
        "",
    ]
    for name, members in by_name.items():
        lines += [f"## {name} ({len(members)})", ""]
        lines += ["| id | question | answer | votes on the sub-domain | votes on the answer |"]
        lines += ["|---|---|---|---|---|"]
        lines += [_markdown_row(member) for member in sorted(members, key=_certainty)]
        lines.append("")
    return "\n".join(lines)


def _certainty(candidate: Candidate) -> tuple[float, float]:
    votes = (candidate.label, candidate.answer)
    label, answer = (1.0 if vote is None else vote.agreement for vote in votes)
    said = candidate.answer
    if said is not None and said.winner is not None and said.winner != candidate.problem.answer:
        answer = 0.0
    return min(label, answer), label


def _markdown_row(candidate: Candidate) -> str:
    problem = candidate.problem
    asked = " ".join(problem.messages[-1]["content"].split())
    if len(asked) > SHOWN_CHARS:
        asked = f"{asked[:SHOWN_CHARS]} ..."
    cells = [problem.id, asked, problem.answer, _votes(candidate.label), _votes(candidate.answer)]
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _votes(vote: Vote | None) -> str:
    if vote is None:
        return ""
    said = [f"{answer}: {count}" for answer, count in vote.counts.items()]
    silent = vote.num_samples - sum(vote.counts.values())
    return ", ".join([*said, f"none: {silent}"] if silent else said)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")

"""Problems and traces from what a recipe names: generators, local files, hub data sets. A row
that cannot be used is an error, or counted and told where the recipe allows some.
"""

from __future__ import annotations

import hashlib
import heapq
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from vibelite.data.rows import problem_from_row, traces_from_row
from vibelite.data.tables import Rows, cell, read_rows
from vibelite.errors import DataError
from vibelite.recipe.data_section import (
    BenchmarkProblems,
    Columns,
    GeneratedProblems,
    ProblemSource,
    ProblemTable,
    Table,
    TraceMix,
    TraceSource,
    TraceTable,
    WorkedTraces,
)
from vibelite.rewards.custom import check_reward_file
from vibelite.run_dir import derive_seed
from vibelite.types import Problem, Trace

AnyTable = TypeVar("AnyTable", ProblemTable, TraceTable)
# A row's number, and of its answers the place of one.
Place = tuple[int, int]
# What tables call these; the first that is there is taken.
PROMPTS = ("prompt", "question", "problem", "instruction")
ANSWERS = ("final_answer", "ground_truth", "solution")
SUBDOMAINS = ("subdomain", "topic", "subject", "category")
COMPLETIONS = ("completion", "response", "output", "solution", "answer")


def load_problems(source: ProblemSource, *, recipe_dir: Path, seed: int) -> list[Problem]:
    """The problems of one source, in order; `seed` chooses generated ones, and those that a limit
    leaves. Raises DataError, with
    file and row, for anything missing or wrong, and for ids that occur twice.
    """
    match source:
        case GeneratedProblems():
            from vibelite.data.generated import generate_problems

            return generate_problems(source, seed=seed)
        case BenchmarkProblems():
            from vibelite.data import benchmarks

            if source.path:
                rows = benchmarks.read_file(source, recipe_dir)
            else:
                rows = table_rows(benchmarks.hub_source(source), recipe_dir)
            return benchmarks.problems_from_rows(source, rows, seed=seed)
    source, rows = _with_columns(source, table_rows(source, recipe_dir))
    problems = _chosen(_with_absolute_reward(source, recipe_dir), rows, seed)
    if not problems:
        which = "" if source.part == "all" else f" in its part {source.part}"
        if source.part == "held-out":
            which += f", which is {source.held_out:g} of them by hash; add rows, or raise held_out"
        raise DataError(f"{rows.name}: no rows{which}{_wish(source)}")
    seen: dict[str, int] = {}
    for index, problem in problems.items():
        if (first := seen.setdefault(problem.id, index)) != index:
            raise DataError(f"{rows.at(index)}: id {problem.id!r} was used by {rows.at(first)}")
    return list(problems.values())


def load_traces(
    source: TraceSource, problems: Mapping[str, ProblemSource], *, recipe_dir: Path, seed: int
) -> list[Trace]:
    """The traces of one source; `problems` are the sets by name. Raises as `load_problems`."""
    match source:
        case WorkedTraces():
            from vibelite.data.worked import work_out

            solved = problems[source.problems]
            assert isinstance(solved, GeneratedProblems), "a recipe is refused that asks for others"
            found = load_problems(solved, recipe_dir=recipe_dir, seed=seed)
            return work_out(found, paths_per_problem=source.paths_per_problem)
        case TraceMix():
            parts = (
                load_traces(part, problems, recipe_dir=recipe_dir, seed=seed)
                for part in source.sets
            )
            return list(chain.from_iterable(parts))
    source, rows = _with_columns(source, table_rows(source, recipe_dir))
    paths = (
        ((index, place), trace)
        for index, row in _wanted(source, rows)
        for place, trace in enumerate(traces_from_row(row, source, rows, index))
    )
    if source.paths_per_problem:
        paths = _sample_of_each(paths, source.paths_per_problem, seed)
    traces = [trace for _, trace in _sample(paths, source.num_traces, seed)]
    if not traces:
        raise DataError(f"{rows.name}: no rows{_wish(source)}")
    return traces


def _sample(
    paths: Iterable[tuple[Place, Trace]], number: int | None, seed: int
) -> Iterable[tuple[Place, Trace]]:
    """`number` of the ((row, path), trace) by the seed, in order, and no more of them in memory;
    paths of one row stay together. All where `number` is None.
    """
    if number is None:
        return paths
    drawn = heapq.nsmallest(number, paths, key=lambda path: _rank(path[0][0], seed))
    return sorted(drawn, key=itemgetter(0))


def _sample_of_each(
    paths: Iterable[tuple[Place, Trace]], number: int, seed: int
) -> Iterable[tuple[Place, Trace]]:
    """`number` of the traces of each question."""
    kept: dict[str, list[tuple[Place, Trace]]] = {}
    for place, trace in paths:
        of_question = kept.setdefault(str(trace.messages[:-1]), [])
        of_question.append((place, trace))
        if len(of_question) > number:
            of_question.remove(max(of_question, key=lambda item: _rank(item[0], seed)))
    return sorted(chain.from_iterable(kept.values()), key=itemgetter(0))


def _rank(place: int | Place, seed: int) -> int:
    """Where a row stands in the order by which limits choose: a smaller sample is in a larger."""
    return derive_seed(seed, "sample", str(place))


def _with_columns(source: AnyTable, rows: Rows) -> tuple[AnyTable, Rows]:
    """The source with columns of the first row where the recipe names none, which is told."""
    iterator = iter(rows.table)
    head = list(islice(iterator, 1))
    rows = replace(rows, table=chain(head, iterator))
    first = head[0] if head and isinstance(head[0], dict) else {}
    if isinstance(source, ProblemTable):
        taken = _problem_columns(source, first)
        changes: dict[str, Any] = {"columns": source.columns.model_copy(update=taken)}
    else:
        taken = changes = _trace_columns(source, first)
    if taken:
        said = ", ".join(f"{field}: {column}" for field, column in taken.items())
        warnings.warn(f"{rows.name}: columns taken as {{{said}}}", stacklevel=2)
    return source.model_copy(update=changes), rows


def _problem_columns(source: ProblemTable, row: Mapping[str, Any]) -> dict[str, str]:
    """Fields of `source.columns` -> columns of `row`; sub-domains where the recipe names none."""
    columns, usual = source.columns, Columns()
    found: dict[str, str | None] = {}
    if columns.prompt == usual.prompt and columns.prompt not in row:
        found["prompt"] = _first(PROMPTS, row)
    has_answer = source.verifier not in ("code", "instruct")
    if has_answer and columns.answer == usual.answer and columns.answer not in row:
        found["answer"] = _first(ANSWERS, row)
    if columns == usual and source.subdomain == "all":
        found["subdomain"] = _first(SUBDOMAINS, row)
    return {field: column for field, column in found.items() if column}


def _trace_columns(source: TraceTable, row: Mapping[str, Any]) -> dict[str, str]:
    """Fields of `source` -> columns of `row`, where there is no column of messages."""
    if source.messages_column in row or source.messages_column != "messages":
        return {}
    if "conversations" in row:
        return {"messages_column": "conversations"}
    question, answer = _first(PROMPTS, row), _first(COMPLETIONS, row)
    # An instruction with an input of its own is more than one column of the question.
    if question is None or answer is None or source.completion_column or "input" in row:
        return {}
    return {"messages_column": question, "completion_column": answer}


def _first(names: tuple[str, ...], row: Mapping[str, Any]) -> str | None:
    return next((name for name in names if name in row), None)


def _wanted(source: Table, rows: Rows) -> Iterator[tuple[int, Any]]:
    for index, row in enumerate(rows.table):
        if all(
            str(cell(row, column, rows.at(index))) in map(str, values)
            for column, values in source.where.items()
        ):
            yield index, row


def _chosen(source: ProblemTable, rows: Rows, seed: int) -> dict[int, Problem]:
    """The problems by the index of their row, in order; DataError for more unusable rows than
    allowed, among those that were tried.
    """
    chosen: dict[int, Problem] = {}
    counts: Counter[str] = Counter()
    num_seen, unusable = 0, []
    wanted = _wanted(source, rows)
    if source.num_problems or source.num_per_subdomain:
        wanted = iter(sorted(wanted, key=lambda item: _rank(item[0], seed)))
    for index, row in wanted:
        num_seen += 1
        try:
            problem = problem_from_row(row, source, rows, index)
        except DataError as error:
            if not source.max_unusable:
                raise
            unusable.append(error)
            continue
        limit = source.num_per_subdomain
        if _is_in_part(problem, source) and counts[problem.subdomain] != limit:
            counts[problem.subdomain] += 1
            chosen[index] = problem
            if len(chosen) == source.num_problems:
                break
    if unusable:
        found = f"{rows.name}: {len(unusable)} of {num_seen} rows cannot be used"
        if len(unusable) > source.max_unusable * num_seen:
            limit = f"more than max_unusable ({source.max_unusable:g})"
            raise DataError(f"{found}, which is {limit}: {unusable[0]}")
        warnings.warn(f"{found} and are left out, the first: {unusable[0]}", stacklevel=2)
    return dict(sorted(chosen.items()))


def _wish(source: Table) -> str:
    return f" with {source.where}" if source.where else ""


def table_rows(source: Table, recipe_dir: Path) -> Rows:
    """Rows of a local file, or of a hub data set from the network or the cache of `datasets`."""
    path = source.local_path(recipe_dir)
    if path is not None:
        return read_rows(path)
    from datasets import load_dataset

    name = f"{source.path}@{source.revision}[{source.split}]"
    try:
        table = load_dataset(
            source.path, source.config, split=source.split, revision=source.revision
        )
    except Exception as error:  # datasets and the hub raise many types; all mean: no data
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"data set {name} cannot be loaded ({type(error).__name__}: {reason}); check its name "
            "and the network, or download it elsewhere and use `source: file` with its .parquet or "
            ".jsonl file"
        ) from error
    return Rows(name, table)


def _with_absolute_reward(source: ProblemTable, recipe_dir: Path) -> ProblemTable:
    if source.reward is None:
        return source
    path = (recipe_dir / Path(source.reward.file).expanduser()).resolve()
    check_reward_file(path)
    reward = source.reward.model_copy(update={"file": str(path)})
    return source.model_copy(update={"reward": reward})


def _is_in_part(problem: Problem, source: ProblemTable) -> bool:
    """By the hash of the prompt's letters and digits: order and layout do not matter."""
    if source.part == "all":
        return True
    text = "".join(filter(str.isalnum, problem.messages[-1]["content"])).casefold()
    share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    return (share < source.held_out) == (source.part == "held-out")

"""`vibelite build-probe`: a probing set with as many problems of each sub-domain, from a table
whose rows name theirs (VibeThinker report 3.3 does not say how it labels).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vibelite.commands.options import AsJson, ColumnNames, print_json, read_columns
from vibelite.errors import DataError, RecipeError
from vibelite.tools.decontaminate import read_evaluation

if TYPE_CHECKING:
    from vibelite.recipe.data_section import ProblemTable
    from vibelite.types import Problem

# Subjects of MATH as the four of VibeThinker report 3.3; number theory is none of them. MATH has no
# calculus: Precalculus is what comes nearest.
MATH_SUBJECTS = {
    "Prealgebra": "algebra",
    "Algebra": "algebra",
    "Intermediate Algebra": "algebra",
    "Geometry": "geometry",
    "Precalculus": "calculus",
    "Counting & Probability": "statistics",
}


@dataclass(frozen=True, slots=True)
class Request:
    """Which problems of a table make a set.

    `subdomains`: value of the sub-domain's column -> sub-domain; empty = the column's own values.
    `per_subdomain` None = as many as the rarest has.
    """

    table: ProblemTable
    subdomains: Mapping[str, str]
    per_subdomain: int | None
    seed: int


def build_probe(
    source: Annotated[
        str, typer.Argument(help="A .jsonl, .json or .parquet file, or owner/name on the hub.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The new set, a .jsonl file.")],
    columns: ColumnNames = "",
    subdomains: Annotated[
        str,
        typer.Option(
            metavar="math|VALUE=NAME,...",
            help="What the values of the column mean; math = subjects of MATH.",
        ),
    ] = "",
    per_subdomain: Annotated[
        int | None, typer.Option(min=1, help="Keep N of each; default: as many as the rarest has.")
    ] = None,
    verifier: Annotated[
        Literal["math", "exact", "choice"], typer.Option(help="How answers are judged.")
    ] = "math",
    against: Annotated[
        list[str],
        typer.Option(metavar="EVAL", help="Leave out what repeats this file, or aime25, ..."),
    ] = [],  # noqa: B006 - typer copies it
    max_unusable: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the rows that may be unusable.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Which problems are drawn.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Make a probing set with as many problems of each sub-domain.

    vibelite build-probe math.parquet --columns subdomain=type --subdomains math -o probe.jsonl
    """
    from vibelite.commands.single_stage import table_source

    judging = {"verifier": verifier, "max_unusable": max_unusable}
    table = table_source(source, {"columns": read_columns(columns), **judging})
    if table is None:
        raise RecipeError(f"{source}: neither a table nor the owner/name of a data set")
    if table.columns.subdomain is None:
        raise RecipeError("--columns: name the column of the sub-domain, as in subdomain=subject")
    if output.suffix != ".jsonl":
        raise RecipeError(f"--output {output}: must end in .jsonl")
    request = Request(table, read_subdomains(subdomains), per_subdomain, seed)
    with redirect_stdout(sys.stderr):
        report = build(request, output, against)
    if as_json:
        print_json(report)
    else:
        print(_as_text(report))


def read_subdomains(text: str) -> dict[str, str]:
    """Value of a column -> sub-domain: "math", or "Algebra=algebra,geometry", where a bare name
    stands for itself.
    """
    if text == "math":
        return dict(MATH_SUBJECTS)
    pairs = [part.partition("=") for part in map(str.strip, text.split(",")) if part]
    return {value.strip(): (name if equals else value).strip() for value, equals, name in pairs}


def build(request: Request, output: Path, against: Sequence[str]) -> dict[str, Any]:
    """Writes the set to `output`, and beside it its report (.report.json), which is returned."""
    from vibelite.data.decontaminate import Cleaner, texts_of
    from vibelite.run_dir import write_json_atomic, write_jsonl_atomic

    cleaner = Cleaner([item for name in dict.fromkeys(against) for item in read_evaluation(name)])
    dropped: Counter[str] = Counter()
    problems = read_problems(request, dropped)
    num_candidates = len(problems) + dropped.total()
    # In an order that depends on ids and seed alone.
    problems.sort(key=lambda p: sha256(f"probing/{request.seed}/{p.id}".encode()).digest())
    problems = without_repeats(problems, dropped)
    problems = [problem for problem in problems if cleaner.keeps(problem.id, texts_of(problem))]
    dropped["an evaluation problem"] += len(cleaner.dropped)
    chosen = choose(problems, request, dropped)
    rows = [
        {"id": p.id, "subdomain": p.subdomain, "prompt": list(p.messages), "answer": p.answer}
        for p in chosen
    ]
    report = {
        "output": str(output),
        "source": request.table.path,
        "verifier": request.table.verifier,
        "seed": request.seed,
        "num_candidates": num_candidates,
        "dropped": dict(+dropped),
        "num_problems": len(chosen),
        "subdomains": dict(Counter(problem.subdomain for problem in chosen)),
        "repeats": cleaner.dropped,
    }
    write_jsonl_atomic(output, rows)
    write_json_atomic(output.with_suffix(".report.json"), report)
    return report


def read_problems(request: Request, dropped: Counter[str]) -> list[Problem]:
    """The problems of the table; with `request.subdomains`, those of them.

    Raises DataError for a sub-domain that no row has.
    """
    from vibelite.data.sources import load_problems

    table = request.table
    if not request.subdomains:
        return load_problems(table, recipe_dir=Path.cwd(), seed=0)
    columns = table.columns.model_copy(update={"subdomains": request.subdomains})
    table = table.model_copy(update={"columns": columns})
    problems = load_problems(table, recipe_dir=Path.cwd(), seed=0)
    names, found = set(request.subdomains.values()), {problem.subdomain for problem in problems}
    if missing := names - found:
        raise DataError(
            f"{table.path}: no row is of the sub-domain {', '.join(sorted(missing))}; the column "
            f"{table.columns.subdomain} gives: {', '.join(sorted(found))}"
        )
    kept = [problem for problem in problems if problem.subdomain in names]
    dropped["another sub-domain"] += len(problems) - len(kept)
    return kept


def without_repeats(problems: Iterable[Problem], dropped: Counter[str]) -> list[Problem]:
    """The first of all problems whose questions have the same letters and digits."""
    first: dict[str, Problem] = {}
    for problem in problems:
        content = problem.messages[-1]["content"]
        text = "".join(filter(str.isalnum, content)).casefold() or content
        dropped["repeated"] += text in first
        first.setdefault(text, problem)
    return list(first.values())


def choose(problems: Sequence[Problem], request: Request, dropped: Counter[str]) -> list[Problem]:
    """The first problems of each sub-domain, as many of all.

    Raises DataError for a sub-domain without any.
    """
    found = sorted({problem.subdomain for problem in problems})
    members = {
        name: [problem for problem in problems if problem.subdomain == name]
        for name in request.subdomains.values() or found
    }
    rarest = min(members, key=lambda name: len(members[name]), default="")
    number = len(members.get(rarest, []))
    if not number:
        raise DataError(f"nothing is left of the sub-domain {rarest!r}; dropped: {dict(+dropped)}")
    number = min(number, request.per_subdomain or number)
    chosen = [problem for of_name in members.values() for problem in of_name[:number]]
    dropped["beyond the number of each"] += len(problems) - len(chosen)
    return chosen


def _as_text(report: Mapping[str, Any]) -> str:
    dropped = ", ".join(f"{count} {why}" for why, count in report["dropped"].items())
    counts = ", ".join(f"{count} {name}" for name, count in report["subdomains"].items())
    return (
        f"{report['num_problems']} problems ({counts}) of {report['num_candidates']} rows of "
        f"{report['source']}{f'; left out: {dropped}' if dropped else ''}\n"
        f"check {report['output']} by eye, then name it in the recipe:\n"
        f"  probe: {{source: file, path: {report['output']}, verifier: {report['verifier']}, "
        "columns: {subdomain: subdomain, id: id}}"
    )

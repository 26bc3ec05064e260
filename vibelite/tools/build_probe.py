"""`vibelite build-probe`: a probing set, with as many problems of each sub-domain, from a table.

Sub-domains come from a column of the table or from the votes of a model. Every vote is kept in a
file, so that the same command goes on where it was stopped. The question that asks for a sub-domain
is own: VibeThinker report 3.3 does not say how it labels.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vibelite.commands.options import (
    AsJson,
    ColumnNames,
    interruptible,
    print_json,
    read_columns,
    require_models,
)
from vibelite.errors import DataError, RecipeError
from vibelite.tools.decontaminate import read_evaluation

if TYPE_CHECKING:
    from vibelite.recipe.data_section import ProblemTable
    from vibelite.recipe.stage_section import Sampling
    from vibelite.types import Problem

# Of VibeThinker report 3.3.
FOUR = "algebra,geometry,calculus,statistics"
# Subjects of MATH as those four; number theory is none of them. MATH has no calculus: Precalculus
# is what comes nearest.
MATH_SUBJECTS = {
    "Prealgebra": "algebra",
    "Algebra": "algebra",
    "Intermediate Algebra": "algebra",
    "Geometry": "geometry",
    "Precalculus": "calculus",
    "Counting & Probability": "statistics",
}
_QUESTION = (
    "Which field does the following problem belong to? Do not solve it.\n\nProblem:\n{question}\n\n"
    "The fields are: {fields}. End with the name of exactly one of them in \\boxed{{}}."
)
_TEXT = re.compile(r"\\(?:text(?:bf|rm|it|tt)?|mathrm|mathbf)\s*\{([^{}]*)\}")
SHOWN_CHARS = 240

# Id of a problem -> how often each sub-domain was named.
Votes = dict[str, Counter[str]]

Source = Annotated[str, typer.Argument(help="A .jsonl, .json or .parquet file, or owner/name.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The new set, a .jsonl file.")]
Subdomains = Annotated[
    str,
    typer.Option(
        metavar="math|VALUE=NAME,...",
        help="What the values of the column mean, or names to vote on; math = subjects of MATH.",
    ),
]
PerSubdomain = Annotated[
    int | None, typer.Option(min=1, help="Keep N of each; default: as many as the rarest has.")
]
Voter = Annotated[Path | None, typer.Option(help="A model directory; its samples vote.")]
MinAgreement = Annotated[
    float, typer.Option(min=0, max=1, help="Share of its votes that a majority needs.")
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest completion of a vote.")]
Judge = Annotated[Literal["math", "exact", "choice"], typer.Option(help="How answers are judged.")]
Against = Annotated[
    list[str],
    typer.Option(metavar="EVAL", help="Leave out what repeats this file, or aime25, ..."),
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Look at only N problems, drawn by the seed.")
]
MaxUnusable = Annotated[
    float, typer.Option(min=0, max=1, help="Share of the rows that may be unusable.")
]


@dataclass(frozen=True, slots=True)
class Request:
    """Which problems of a table make a set, and who votes on them.

    `subdomains`: value of the sub-domain's column -> sub-domain, or the names that `model` votes
    on; empty = the column's own values. `per_subdomain` None = as many as the rarest has. `model`
    None = no votes; a majority needs the share `min_agreement` of `label_samples`.
    """

    table: ProblemTable
    subdomains: Mapping[str, str]
    per_subdomain: int | None
    limit: int | None
    seed: int
    model: Path | None
    sampling: Sampling
    label_samples: int
    min_agreement: float


def build_probe(
    source: Source,
    output: Output,
    columns: ColumnNames = "",
    subdomains: Subdomains = "",
    per_subdomain: PerSubdomain = None,
    model: Voter = None,
    label_samples: Annotated[int, typer.Option(min=1, help="Votes on each problem.")] = 5,
    min_agreement: MinAgreement = 0.6,
    max_new_tokens: MaxNewTokens = 2048,
    temperature: Annotated[float, typer.Option(min=0, help="Of the votes.")] = 1.0,
    verifier: Judge = "math",
    against: Against = [],  # noqa: B006 - typer copies it
    limit: Limit = None,
    max_unusable: MaxUnusable = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Which problems are drawn.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Make a probing set, as many problems of each sub-domain, and a list of it to check by hand.

    vibelite build-probe math.parquet --subdomains math -o probe.jsonl

    Sub-domains come from a column (--columns subdomain=...) or from the votes of --model. The same
    command again resumes; votes are kept in OUTPUT's name with .votes.
    """
    from vibelite.commands.single_stage import table_source
    from vibelite.recipe.stage_section import Sampling

    judging = {"verifier": verifier, "max_unusable": max_unusable}
    table = table_source(source, {"columns": read_columns(columns), **judging})
    if table is None:
        raise RecipeError(f"{source}: neither a table nor the owner/name of a data set")
    is_labelled = table.columns.subdomain is not None
    if is_labelled == (model is not None):
        raise RecipeError("name either --columns subdomain=COLUMN or a --model that votes")
    require_models([] if model is None else [model])
    names = read_subdomains(subdomains or ("" if is_labelled else FOUR))
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
    votes = (model, sampling, label_samples, min_agreement)
    request = Request(table, names, per_subdomain, limit, seed, *votes)
    with redirect_stdout(sys.stderr), interruptible():
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
    """Writes the set to `output`, its list beside it (.md) and its report (.report.json), which is
    returned.
    """
    from vibelite.data.decontaminate import Cleaner, texts_of
    from vibelite.run_dir import write_json_atomic, write_jsonl_atomic, write_text_atomic

    cleaner = Cleaner([item for name in dict.fromkeys(against) for item in read_evaluation(name)])
    if output.suffix != ".jsonl":
        raise RecipeError(f"--output {output}: must end in .jsonl")
    dropped: Counter[str] = Counter()
    problems = read_problems(request, dropped)
    num_candidates = len(problems) + dropped.total()
    # In an order that depends on ids and seed alone.
    problems.sort(key=lambda p: sha256(f"probing/{request.seed}/{p.id}".encode()).digest())
    problems = without_repeats(problems, dropped)
    problems = [problem for problem in problems if cleaner.keeps(problem.id, texts_of(problem))]
    dropped["an evaluation problem"] += len(cleaner.tally.dropped)
    dropped["beyond the limit"] += max(0, len(problems) - (request.limit or len(problems)))
    problems, votes = problems[: request.limit], Votes()
    if request.model is not None:
        votes = hold_votes(problems, request, output.with_suffix(".votes"))
        problems = labelled(problems, votes, request.min_agreement, dropped)
    chosen = choose(problems, request, dropped)
    report = {
        "output": str(output),
        "list": str(output.with_suffix(".md")),
        "source": request.table.path,
        "verifier": request.table.verifier,
        "seed": request.seed,
        "num_candidates": num_candidates,
        "dropped": dict(+dropped),
        "num_problems": len(chosen),
        "subdomains": dict(Counter(problem.subdomain for problem in chosen)),
        "model": request.model and str(request.model),
        "repeats": cleaner.tally.dropped,
    }
    write_jsonl_atomic(output, [_as_row(problem, votes.get(problem.id)) for problem in chosen])
    write_text_atomic(output.with_suffix(".md"), _as_markdown(chosen, votes, report))
    write_json_atomic(output.with_suffix(".report.json"), report)
    return report


def read_problems(request: Request, dropped: Counter[str]) -> list[Problem]:
    """The problems of the table; where its rows have sub-domains, those of `request.subdomains`.

    Raises DataError for a sub-domain that no row has.
    """
    from vibelite.data.sources import load_problems

    table = request.table
    is_labelled = table.columns.subdomain is not None and bool(request.subdomains)
    if is_labelled:
        columns = table.columns.model_copy(update={"subdomains": request.subdomains})
        table = table.model_copy(update={"columns": columns})
    problems = load_problems(table, recipe_dir=Path.cwd(), seed=0)
    if not is_labelled:
        return problems
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


def hold_votes(problems: Sequence[Problem], request: Request, directory: Path) -> Votes:
    """The model's votes on the sub-domain of each problem; what it said is kept in `directory`.
    RecipeError for a directory that holds votes with other settings.
    """
    from vibelite.commands.single_stage import fingerprint, require_same_settings, stage_context
    from vibelite.data.benchmarks import content_hash
    from vibelite.recipe.stage_section import ProbeStage
    from vibelite.run_dir import read_jsonl
    from vibelite.run_lock import locked
    from vibelite.stages.sampling import SampleRequest, collect_samples

    model, sampling, number = request.model, request.sampling, request.label_samples
    assert model is not None
    names = list(dict.fromkeys(request.subdomains.values()))
    settings = {
        "data_sha256": content_hash(problems),
        "model": fingerprint(model),
        "subdomains": names,
        "seed": request.seed,
        "sampling": sampling.model_dump(mode="json"),
        "label_samples": number,
    }
    require_same_settings(directory, settings, holder=f"{directory}: holds votes")
    stage = ProbeStage(kind="probe", num_samples=1, k=1, sampling=sampling)
    path = directory / "labels.jsonl"
    asked = [_question(problem, names) for problem in problems]
    with locked(directory), stage_context(stage, request.seed) as context:
        seed = context.seed("votes", path.stem)
        collect_samples(SampleRequest(model, asked, sampling, number, seed), path, context, {})
    known = {_plain(name): name for name in names}
    votes: Votes = {problem.id: Counter() for problem in problems}
    for row in read_jsonl(path):
        votes[row["problem_id"]][_named(row, known)] += 1
    return votes


def leader(votes: Counter[str]) -> tuple[str, float]:
    """The sub-domain with most votes ("" where several have as many) and its share of all votes,
    those for "" included: samples that named none.
    """
    ranked = [pair for pair in votes.most_common() if pair[0]] or [("", 0)]
    is_tied = len(ranked) > 1 and ranked[0][1] == ranked[1][1]
    return "" if is_tied else ranked[0][0], ranked[0][1] / votes.total()


def labelled(
    problems: Sequence[Problem], votes: Votes, min_agreement: float, dropped: Counter[str]
) -> list[Problem]:
    """The problems on which a large enough majority agrees, each with its sub-domain."""
    kept = []
    for problem in problems:
        name, agreement = leader(votes[problem.id])
        if name and agreement >= min_agreement:
            kept.append(replace(problem, subdomain=name))
    dropped["no clear sub-domain"] += len(problems) - len(kept)
    return kept


def _question(problem: Problem, names: Sequence[str]) -> Problem:
    """The problem that asks for the sub-domain of `problem`."""
    question = problem.messages[-1]["content"]
    content = _QUESTION.format(question=question, fields=", ".join(names))
    messages = ({"role": "user", "content": content},)
    return replace(problem, messages=messages, answer="?", verifier="exact")


def _named(row: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """The sub-domain in a sample's last box; "" for anything else, and where it was cut off."""
    from vibelite.rewards.answer_text import boxed_answer

    boxed, _ = boxed_answer(row["completion"])
    if boxed is None or row["finish_reason"] == "length":
        return ""
    return names.get(_plain(_TEXT.sub(r"\1", boxed)), "")


def _plain(name: str) -> str:
    """A name without case, and with blanks, dashes and underscores alike."""
    return re.sub(r"[\s_-]+", "-", name.strip().strip("$.").casefold())


def _as_row(problem: Problem, votes: Counter[str] | None) -> dict[str, Any]:
    """One line of the set: what a recipe reads, and the votes."""
    row: dict[str, Any] = {
        "id": problem.id,
        "subdomain": problem.subdomain,
        "prompt": list(problem.messages),
        "answer": problem.answer,
    }
    if votes is not None:
        row["label_votes"] = {name: number for name, number in votes.most_common() if name}
        row["label_agreement"] = round(leader(votes)[1], 4)
    return row


def _as_markdown(problems: Sequence[Problem], votes: Votes, report: Mapping[str, Any]) -> str:
    """The list that a person goes through: questions by sub-domain with their answers and votes;
    the ones on which the votes are least sure come first.
    """
    lines = [
        f"# {report['num_problems']} problems of {report['source']}",
        "",
        f"Seed {report['seed']}; {report['num_candidates']} rows; left out: {report['dropped']}.",
        f"Votes: {report['model'] or 'none'}.",
    ]
    for name, number in report["subdomains"].items():
        lines += ["", f"## {name} ({number})", ""]
        lines += ["| id | question | answer | votes on the sub-domain |", "|---|---|---|---|"]
        members = [problem for problem in problems if problem.subdomain == name]
        if votes:
            members.sort(key=lambda problem: leader(votes[problem.id])[1])
        for problem in members:
            question = " ".join(problem.messages[-1]["content"].split())
            if len(question) > SHOWN_CHARS:
                question = f"{question[:SHOWN_CHARS]} ..."
            counts = votes[problem.id].most_common() if votes else []
            said = ", ".join(f"{field or 'none'}: {number}" for field, number in counts)
            cells = [problem.id, question, problem.answer, said]
            lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join([*lines, ""])


def _as_text(report: Mapping[str, Any]) -> str:
    dropped = ", ".join(f"{count} {why}" for why, count in report["dropped"].items())
    counts = ", ".join(f"{count} {name}" for name, count in report["subdomains"].items())
    return (
        f"{report['num_problems']} problems ({counts}) of {report['num_candidates']} rows of "
        f"{report['source']}{f'; left out: {dropped}' if dropped else ''}\n"
        f"check {report['list']}, then name {report['output']} in the recipe:\n"
        f"  probe: {{source: file, path: {report['output']}, verifier: {report['verifier']}, "
        "columns: {subdomain: subdomain, id: id}}"
    )

"""`vibelite build-probe`: a probing set from labelled data, or by the votes of a local model."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vibelite.commands.columns import ColumnNames, read_columns
from vibelite.commands.decontaminate import read_evaluation
from vibelite.errors import Interrupted, RecipeError

if TYPE_CHECKING:
    from vibelite.data.probing_set import ProbingRequest
    from vibelite.recipe.data_section import ProblemFile, ProblemHub
    from vibelite.stages.problem_votes import Election

# Of VibeThinker report 3.3.
FOUR = "algebra,geometry,calculus,statistics"

Source = Annotated[str, typer.Argument(help="A .jsonl, .json or .parquet file, or owner/name.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The new set, a .jsonl file.")]
Subdomains = Annotated[
    str,
    typer.Option(
        metavar="math|FILE.json|VALUE=NAME,...",
        help="What the values of the sub-domain's column mean, or the names to vote on; math = "
        "the subjects of MATH.",
    ),
]
PerSubdomain = Annotated[
    int | None, typer.Option(min=1, help="At most so many of each; default: all of the rarest.")
]
Voters = Annotated[Path | None, typer.Option(help="A model directory whose samples vote.")]
LabelSamples = Annotated[int, typer.Option(min=1, help="Votes on the sub-domain of a problem.")]
AnswerSamples = Annotated[int, typer.Option(min=0, help="Votes on its answer; 0 = none.")]
WithoutAnswers = Annotated[
    bool, typer.Option(help="The table has no answers: the majority's becomes the answer.")
]
MinAgreement = Annotated[
    float, typer.Option(min=0, max=1, help="Share of its votes that a majority needs.")
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest completion of a vote.")]
Temperature = Annotated[float, typer.Option(min=0, help="Of the votes.")]
HowCompared = Annotated[
    Literal["math", "exact", "choice"], typer.Option(help="How answers are compared.")
]
Instruction = Annotated[str, typer.Option(help="Appended to every question.")]
Against = Annotated[
    list[str],
    typer.Option(metavar="EVAL", help="Leave out what repeats this file, or aime25, ..."),
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Look at so many problems only, drawn by the seed.")
]
MaxUnusable = Annotated[
    float, typer.Option(min=0, max=1, help="Share of the rows that may be unusable.")
]
Seed = Annotated[int, typer.Option(min=0, help="Which problems are drawn.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def build_probe(
    source: Source,
    output: Output,
    columns: ColumnNames = "",
    subdomains: Subdomains = "",
    per_subdomain: PerSubdomain = None,
    model: Voters = None,
    label_samples: LabelSamples = 5,
    answer_samples: AnswerSamples = 0,
    without_answers: WithoutAnswers = False,
    min_agreement: MinAgreement = 0.6,
    max_new_tokens: MaxNewTokens = 2048,
    temperature: Temperature = 1.0,
    verifier: HowCompared = "math",
    instruction: Instruction = "",
    against: Against = [],  # noqa: B006 - typer copies it
    limit: Limit = None,
    max_unusable: MaxUnusable = 0.0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Make a probing set, as many problems of each sub-domain, and a list of it to check by hand.

    Sub-domains come from a column (--columns subdomain=...) or from the votes of --model. The same
    command again resumes; votes are kept in OUTPUT's name with .votes.
    """
    from vibelite.data.probing_set import ProbingRequest, read_subdomains

    if without_answers and not (model and answer_samples and verifier != "choice"):
        raise RecipeError(
            "--without-answers: needs --model and --answer-samples, and no --verifier choice"
        )
    table = _table(source, columns, verifier, instruction, max_unusable)
    is_labelled = table.columns.subdomain is not None
    election = None
    if model is not None:
        label_samples = 0 if is_labelled else label_samples
        counts = (label_samples, answer_samples, min_agreement)
        election = _election(model, counts, max_new_tokens, temperature, verifier)
    elif not is_labelled or answer_samples:
        what = "--answer-samples" if is_labelled else "without --columns subdomain=COLUMN"
        raise RecipeError(f"{what}: needs a --model that votes")
    names = read_subdomains(subdomains or ("" if is_labelled else FOUR))
    request = ProbingRequest(table, names, without_answers, per_subdomain, limit, seed)
    with redirect_stdout(sys.stderr):
        summary = _build(request, election, output, against)
    print(json.dumps(summary, indent=1) if as_json else _as_text(summary))


def _table(
    source: str, columns: str, verifier: str, instruction: str, max_unusable: float
) -> ProblemFile | ProblemHub:
    from vibelite.recipe.data_section import ProblemFile, ProblemHub
    from vibelite.standalone import TABLE_SUFFIXES

    values = {"path": source, "columns": read_columns(columns), "verifier": verifier}
    values |= {"instruction": instruction, "max_unusable": max_unusable}
    if Path(source).suffix in TABLE_SUFFIXES:
        if not Path(source).is_file():
            raise RecipeError(f"{source}: no such file")
        return ProblemFile.model_validate({"source": "file", **values})
    if "/" not in source:
        raise RecipeError(f"{source}: neither a table nor the owner/name of a data set")
    return ProblemHub.model_validate({"source": "hub", **values})


def _election(
    model: Path,
    counts: tuple[int, int, float],
    max_new_tokens: int,
    temperature: float,
    verifier: str,
) -> Election:
    from vibelite.recipe.stage_section import Sampling
    from vibelite.standalone import Election

    if not (model / "config.json").is_file():
        raise RecipeError(f"--model {model}: not a model directory (no config.json)")
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
    return Election(model, sampling, *counts, verifier)


def _build(
    request: ProbingRequest, election: Election | None, output: Path, against: list[str]
) -> dict[str, Any]:
    """Writes the set, its list and its report; returns the report without the repeats."""
    from vibelite.data.probing_set import Candidate, Tally, choose, find_problems, write_set
    from vibelite.standalone import vote_on_problems

    items = [item for name in dict.fromkeys(against) for item in read_evaluation(name)]
    if output.suffix != ".jsonl":
        raise RecipeError(f"--output {output}: must end in .jsonl")
    tally = Tally()
    problems, repeats = find_problems(request, items, tally)
    candidates = [Candidate(problem) for problem in problems]
    if election is not None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            candidates = vote_on_problems(
                problems,
                list(dict.fromkeys(request.subdomains.values())),
                election,
                output.with_suffix(".votes"),
                seed=request.seed,
                tally=tally,
            )
        except KeyboardInterrupt:
            raise Interrupted("interrupted; the same command goes on") from None
    chosen = choose(candidates, request, tally)
    voter = None if election is None else str(election.model)
    return write_set(chosen, request, output, tally, {"model": voter, "repeats": repeats})


def _as_text(report: dict[str, Any]) -> str:
    dropped = ", ".join(f"{count} {why}" for why, count in report["dropped"].items())
    counts = ", ".join(f"{count} {name}" for name, count in report["subdomains"].items())
    return (
        f"{report['num_problems']} problems ({counts}) of {report['num_candidates']} rows of "
        f"{report['source']}{f'; left out: {dropped}' if dropped else ''}\n"
        f"check {report['list']}, then name {report['output']} in the recipe:\n"
        f"  probe: {{source: file, path: {report['output']}, verifier: {report['verifier']}, "
        "columns: {subdomain: subdomain, id: id}}"
    )

"""The command line. Commands import what they need when they run: `--help` and the check of a
recipe load no torch. What a command does is in pipeline.py, standalone.py, doctor.py and report/.

With `--json` stdout holds one JSON object and nothing else; everything else goes to stderr.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vibelite import __version__
from vibelite.commands.build_probe import build_probe
from vibelite.commands.columns import ColumnNames, read_columns
from vibelite.commands.compare import compare
from vibelite.commands.decontaminate import decontaminate
from vibelite.commands.export import export
from vibelite.commands.init import init
from vibelite.commands.plan import plan
from vibelite.commands.replicate import replicate
from vibelite.commands.samples import samples
from vibelite.commands.sweep import sweep
from vibelite.commands.verify import verify
from vibelite.commands.watch import watch
from vibelite.errors import BudgetReached, Interrupted, RecipeError, VibeLiteError
from vibelite.ranks.launch import is_started_with_others, run_ranks

if TYPE_CHECKING:
    from vibelite.recipe.stage_section import Sampling

EXIT_FAILED = 1

app = typer.Typer(
    name="vibelite",
    help="Trains a small reasoning model with the VibeThinker recipe on one machine.",
    epilog="Example: vibelite run recipes/quickstart.yaml",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Overrides = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe.")
]
RunDirectory = Annotated[
    Path | None, typer.Option("--run-dir", help="Where the run lives; default runs/<name>.")
]
Until = Annotated[
    str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.")
]
BudgetUsd = Annotated[
    float | None,
    typer.Option("--budget-usd", min=0, help="Stop before this sum; exit code 10, resumable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
NumSamples = Annotated[int, typer.Option(min=1, help="Completions per problem.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest completion, in tokens.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 is greedy.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Use only the first so many problems.")]
Verifier = Annotated[
    Literal["math", "exact", "choice", "code"],
    typer.Option(help="For tables; generators bring their own."),
]


def main() -> None:
    """The entry point: turns errors that a user can act on into a message and an exit code."""
    # With torch loaded the interpreter looks for garbage for a second before it ends, unpaid for in
    # any ledger; with nothing to look through it ends in 0.15 s.
    atexit.register(gc.freeze)
    try:
        app(prog_name="vibelite")
    except VibeLiteError as error:
        if error.printed_by_leader:
            sys.exit(0)  # the leader says it, and ends with its exit code
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"vibelite {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    # Progress bars of libraries would tear the one-line-per-step log.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


@app.command(epilog="Example: vibelite run mine.yaml --set stages.mgpo.num_steps=50 --budget-usd 5")
def run(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    overrides: Overrides = [],  # noqa: B006 - typer copies it
    run_dir: RunDirectory = None,
    until: Until = None,
    budget_usd: BudgetUsd = None,
) -> None:
    """Run a recipe from start to end; the same command again resumes it."""
    from vibelite.recipe.load import load_recipe
    from vibelite.recipe.suggest import did_you_mean

    if budget_usd is not None:
        overrides = [*overrides, f"budget.usd={budget_usd}"]
    loaded = load_recipe(recipe, overrides)
    names = [stage.name for stage in loaded.stages]
    if until is not None and until not in names:
        raise RecipeError(f"--until {until}: no such stage{did_you_mean(until, names)}")
    if loaded.num_gpus > 1 and not is_started_with_others():
        command = [sys.executable, "-m", "vibelite", *sys.argv[1:]]
        raise typer.Exit(run_ranks(loaded.num_gpus, command))
    if getattr(loaded.model, "loader", "") == "unsloth":
        from vibelite.models.unsloth_loader import import_unsloth

        import_unsloth()  # before anything below imports transformers
    from vibelite.pipeline import run_pipeline
    from vibelite.telemetry.meter import process_nanoseconds

    directory = run_dir or Path("runs") / loaded.name
    # Until the run listens itself, which it does once it has something to save.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run_pipeline(
            loaded,
            recipe_path=recipe,
            run_dir=directory,
            until=until,
            boot_nanoseconds=process_nanoseconds(),
        )
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; the same command goes on in {directory}") from None
    except BudgetReached as reason:
        raise BudgetReached(
            f"{reason}. Everything is saved in {directory}: raise the limit and run the same "
            "command to go on"
        ) from None
    except Interrupted as reason:
        raise Interrupted(f"{reason}; the same command goes on in {directory}") from None


@app.command("eval", epilog="Example: vibelite eval runs/mine/export --bench aime25 --k 8")
def evaluate(
    model: Annotated[Path, typer.Argument(help="A Hugging Face model directory.")],
    bench: Annotated[
        str, typer.Option(help="aime25, ..., a file, owner/name on the hub, or a generator.")
    ],
    file: Annotated[
        Path | None, typer.Option(help="Where the benchmark's problems are, instead of the hub.")
    ] = None,
    num_samples: Annotated[
        int | None,
        typer.Option(min=1, help="Completions per problem; default: the report's, or 8."),
    ] = None,
    k: Annotated[list[int], typer.Option(min=1, help="Pass@k; may be repeated.")] = [],  # noqa: B006
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest completion; default: the report's, or 512.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0 is greedy; default: the report's, or 1.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Default: the report's, or 1.")
    ] = None,
    limit: Limit = None,
    columns: ColumnNames = "",
    verifier: Verifier = "math",
    clr: Annotated[
        int, typer.Option(min=0, metavar="M", help="Also vote by the reliability of M claims each.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Samples and result; default: a directory by the model.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Pass@1, Pass@k and majority vote with 95% intervals; the same command again resumes.

    --bench aime24, aime25, hmmt25, math500, gpqa, lcb-v5 and lcb-v6 are sampled as in the report.
    """
    _require_models([model])
    names = read_columns(columns)
    chosen = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
    with redirect_stdout(sys.stderr):
        from vibelite import standalone

        source = standalone.benchmark_source(
            bench, columns=names, verifier=verifier, limit=limit, file=file
        )
        stage = standalone.evaluate_stage(bench, num_samples=num_samples, k=k, sampling=chosen)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            result = standalone.evaluate_model(model, source, stage, out=out, num_claims=clr)
        except KeyboardInterrupt:
            raise Interrupted("interrupted; the same command goes on") from None
    if as_json:
        _print_json({"model": str(model), "benchmark": bench, **result})
        return
    from vibelite.tables import evaluation_table

    print(evaluation_table(f"{model} on {bench}", result))


@app.command(epilog="Example: vibelite probe ckpt/step-* --problems probe.jsonl --k 8")
def probe(
    models: Annotated[list[Path], typer.Argument(help="Hugging Face model directories.")],
    problems: Annotated[
        str, typer.Option(help="A file, owner/name on the hub, or a reasoning-gym generator.")
    ],
    num_samples: NumSamples = 16,
    k: Annotated[int, typer.Option(min=1, help="Pass@k chooses the specialists.")] = 8,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = 1.0,
    limit: Limit = None,
    columns: ColumnNames = "",
    verifier: Verifier = "math",
    as_json: AsJson = False,
) -> None:
    """Pass@k of models per sub-domain, and the best of each."""
    _require_models(models)
    names = read_columns(columns)
    with redirect_stdout(sys.stderr):
        from vibelite import standalone

        source = standalone.benchmark_source(
            problems, columns=names, verifier=verifier, limit=limit
        )
        sampling = _sampling(max_new_tokens, temperature)
        stage = standalone.probe_stage(num_samples=num_samples, k=k, sampling=sampling)
        result = standalone.probe_models(models, source, stage)
    if as_json:
        _print_json(result)
        return
    from vibelite.tables import probe_table

    print(probe_table(result))


@app.command(epilog="Example: vibelite fuse algebra/ geometry/ --weights 0.5,0.5 -o fused")
def fuse(
    models: Annotated[list[Path], typer.Argument(help="Hugging Face model directories.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The new model directory.")],
    weights: Annotated[
        str, typer.Option(help="One number per model, such as 0.5,0.5; empty = all the same.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """The weighted mean of models, computed in float32 tensor by tensor."""
    try:
        numbers = [float(part) for part in weights.split(",")] if weights else [1.0] * len(models)
    except ValueError as error:
        raise RecipeError(f"--weights {weights}: must be numbers such as 0.5,0.5") from error
    _require_models(models)
    with redirect_stdout(sys.stderr):
        from vibelite import standalone

        result = standalone.fuse_directories(models, numbers, output)
    if as_json:
        _print_json(result)
        return
    for source in result["sources"]:
        print(f"{source['weight']:.4f}  {source['model']}")
    print(f"fused into {result['output']}")


app.command()(init)
app.command()(plan)
app.command(epilog="Example: vibelite verify answers.jsonl --custom judge.py:score")(verify)
app.command(epilog="Example: vibelite decontaminate train.jsonl --against aime25 -o clean.jsonl")(
    decontaminate
)
app.command(epilog="Example: vibelite build-probe math.parquet --subdomains math -o probe.jsonl")(
    build_probe
)
app.command()(samples)
app.command(epilog="Example: vibelite replicate runs/mine/manifest.json")(replicate)
app.command()(watch)
app.command()(compare)
app.command()(sweep)
app.command()(export)


@app.command(epilog="Example: vibelite report runs/mine -o mine.html")
def report(
    run_dirs: Annotated[list[Path], typer.Argument(help="Run directories; several are compared.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: report.html in the first one.")
    ] = None,
) -> None:
    """One self-contained HTML page about one or several runs."""
    for directory in run_dirs:
        if not (directory / "recipe.resolved.yaml").is_file():
            raise RecipeError(f"{directory}: not a run directory (no recipe.resolved.yaml)")
    from vibelite.report.build import write_report

    print(write_report(run_dirs, output or run_dirs[0] / "report.html"))


@app.command(epilog="Example: vibelite doctor --json")
def doctor(as_json: AsJson = False) -> None:
    """Examine versions, memory, disks and GPUs; advise."""
    with redirect_stdout(sys.stderr):
        from vibelite.doctor import as_json as findings_as_json
        from vibelite.doctor import examine

        findings = examine()
    if as_json:
        _print_json(findings_as_json(findings))
    else:
        for finding in findings:
            advice = f"  -> {finding.fix}" if finding.fix else ""
            print(f"{finding.status:<4}  {finding.subject}: {finding.detail}{advice}")
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(EXIT_FAILED)


@app.command(epilog="Example: vibelite schema > recipe.schema.json")
def schema() -> None:
    """Print the JSON schema of recipes, for the completion of editors."""
    from vibelite.recipe.load import recipe_schema

    _print_json(recipe_schema())


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


def _require_models(paths: list[Path]) -> None:
    """RecipeError unless every path is a model directory."""
    for path in paths:
        if not path.is_dir():
            raise RecipeError(f"{path}: no such model directory")
        if not (path / "config.json").is_file():
            raise RecipeError(f"{path}: not a Hugging Face model directory (no config.json)")


def _sampling(max_new_tokens: int, temperature: float) -> Sampling:
    from vibelite.recipe.stage_section import Sampling

    return Sampling(max_new_tokens=max_new_tokens, temperature=temperature)

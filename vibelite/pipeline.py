"""A run: the base model, then every stage of the recipe in order; finished stages are skipped."""

from __future__ import annotations

import gc
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from vibelite.errors import RecipeError, VibeLiteError
from vibelite.ranks.ranks import ONE_RANK, Ranks, is_follower, num_gpus_of, num_nodes
from vibelite.recipe.data_section import has_programs
from vibelite.recipe.load import dump_resolved
from vibelite.recipe.run_section import Budget, Cost
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import AnyStage
from vibelite.resume import file_hashes, is_changed, require_same_run
from vibelite.rewards.pool import VerifierPool
from vibelite.rewards.sandbox import Sandbox
from vibelite.run_dir import (
    RunDir,
    StageDir,
    drop_directory,
    new_directory,
    read_json,
    write_json_atomic,
    write_text_atomic,
)
from vibelite.run_lock import locked
from vibelite.stages.context import StageContext
from vibelite.stages.decontaminate import dropped_counts
from vibelite.storage import require_writable, storage_errors
from vibelite.telemetry.energy import gpu_meter, num_gpus, require_known_gpus
from vibelite.telemetry.manifest import environment_manifest
from vibelite.telemetry.memory import return_freed_tensors
from vibelite.telemetry.meter import Meter
from vibelite.telemetry.recorder import Recorder
from vibelite.telemetry.run_state import write_end, write_state
from vibelite.telemetry.sinks import open_sinks
from vibelite.telemetry.spending import Spending
from vibelite.telemetry.stop import StopRules
from vibelite.types import Problem, Trace

# Stages in which all ranks compute; others are the leader's, but for the sampling in them.
TRAINED_BY_ALL = ("sft", "mgpo")
# Without progress on any rank for so long the run ends: a guess above the longest pause, loading a
# model from a slow disk.
SECONDS_WITHOUT_PROGRESS = 1800.0


def run_pipeline(
    recipe: Recipe,
    *,
    recipe_path: Path,
    run_dir: Path,
    until: str | None = None,
    boot_nanoseconds: int = 0,
) -> None:
    """Runs `recipe` in `run_dir`, resuming what is there; stops after stage `until`.
    `boot_nanoseconds` passed before this call and belong to the run.

    Raises RecipeError when the directory holds a run of a different recipe.
    """
    # First of all, as importing is paid for too.
    own_gpus = num_gpus()
    gpus = num_gpus_of(own_gpus)
    # What the GPUs of others do is unknown.
    known = gpu_meter() if gpus == own_gpus else None
    meter = Meter(gpus=known, boot_nanoseconds=boot_nanoseconds)
    return_freed_tensors()
    if is_follower():
        follow_run(recipe, recipe_path, RunDir(run_dir.resolve()), until, meter)
        return
    require_writable(run_dir)
    with locked(run_dir), storage_errors(run_dir.resolve()):
        run = open_run(recipe, recipe_path, run_dir)
        spending = Spending(recipe.cost.times(num_nodes()), run.ledger_path, num_gpus=gpus)
        stop = StopRules(recipe.budget, spending)
        with stop.listen(), spending.paying(meter):
            write_state(run.path, "running")
            failure = None
            try:
                with storage_errors(run.path), torch_and_ranks(recipe, run, meter) as world:
                    run_stages(Session(recipe, recipe_path, run, meter, stop, world), until)
            except Exception as error:  # what was paid for is shown all the same
                failure = error
            with meter.span("report"):
                conclude(recipe, run, failure)
            if failure is not None:
                raise failure


def conclude(recipe: Recipe, run: RunDir, failure: Exception | None) -> None:
    """Keeps what became of the run, and shows what it did."""
    from vibelite.report.build import write_report
    from vibelite.report.summary import print_summary, write_summary

    try:
        finished = {path.parent.name[3:] for path in run.path.glob("stages/*/status.json")}
        names = [stage.name for stage in recipe.stages]
        write_end(run.path, failure, [name for name in names if name not in finished])
        summary = write_summary(run.path)
        report = write_report([run.path], run.path / "report.html")
    except (OSError, VibeLiteError) as error:
        if failure is None:
            raise
        print(f"warning: the report could not be written: {error}", file=sys.stderr)
        return
    print_summary(summary)
    print(f"report: {report}")


def follow_run(
    recipe: Recipe, recipe_path: Path, run: RunDir, until: str | None, meter: Meter
) -> None:
    """This process's part in a run that another one leads, writes and pays."""
    with storage_errors(run.path), torch_and_ranks(recipe, run, meter) as world:
        stop = StopRules(Budget(), Spending(Cost(), run.ledger_path))
        with stop.listen():
            run_stages(Session(recipe, recipe_path, run, meter, stop, world), until)


@contextmanager
def torch_and_ranks(recipe: Recipe, run: RunDir, meter: Meter) -> Iterator[Ranks]:
    """Torch as the recipe wants it, and the processes that were started with this one, which all
    see the run's directory.
    """
    import torch

    from vibelite.ranks.join import joined_world, require_shared

    require_known_gpus()
    torch.set_float32_matmul_precision(recipe.matmul_precision)
    if recipe.num_threads:
        torch.set_num_threads(recipe.num_threads)
    with joined_world(SECONDS_WITHOUT_PROGRESS, partial(meter.span, "wait")) as world:
        num_here, size = world.num_ranks // world.num_nodes, recipe.rollout.tensor_parallel
        if num_here % size:
            raise RecipeError(
                f"rollout.tensor_parallel: {size} must divide the {num_here} processes that were "
                "started on each machine"
            )
        require_shared(run.path, world)
        yield world


@dataclass(frozen=True, slots=True)
class Session:
    """One process's part in a run."""

    recipe: Recipe
    recipe_path: Path
    run: RunDir
    meter: Meter
    stop: StopRules
    world: Ranks
    opened: list[Any] = field(default_factory=list)
    """The engine that stages share; closed before all ranks train, and at the end."""

    def close(self) -> None:
        with self.meter.span("engine"):
            while self.opened:
                self.opened.pop().close()

    def context(self, name: str, stage_dir: StageDir, world: Ranks) -> StageContext:
        """The context of one stage that `world` runs."""
        recipe, run, meter = self.recipe, self.run, self.meter
        settings = recipe.verification
        steps = {stage.name: getattr(stage, "num_steps", None) for stage in recipe.stages}
        sinks = ()
        if world.is_leader:
            where = {"run_dir": run.path, "stage": name, "project": recipe.name}
            sinks = open_sinks(recipe.tracking, **where)
        shown = {"num_steps": steps.get(name), "ranks": world, "sinks": sinks}
        recorder = Recorder(name, stage_dir, meter, self.stop, **shown)
        if world.watchdog is not None:
            world.watchdog.describe = recorder.describe
        verifiers = VerifierPool(num_workers=settings.num_workers, seconds=settings.seconds)
        recipe_dir = self.recipe_path.resolve().parent
        return StageContext(
            recipe, recipe_dir, run, name, stage_dir, meter, recorder, verifiers, world, self.opened
        )


def make_context(
    recipe: Recipe, recipe_path: Path, run: RunDir, name: str, stage_dir: StageDir, meter: Meter
) -> StageContext:
    """The context of a stage that this process runs by itself, outside a whole run."""
    stop = StopRules(recipe.budget, Spending(recipe.cost, run.ledger_path))
    session = Session(recipe, recipe_path, run, meter, stop, ONE_RANK)
    return session.context(name, stage_dir, ONE_RANK)


def run_stages(session: Session, until: str | None) -> None:
    """The base model and every stage that is not finished, up to stage `until`."""
    run, world = session.run, session.world
    base = session.context("base", StageDir(run.path), world.leading)
    world.from_leader(partial(begin_run, base, session.recipe_path))
    with closing(session):
        for index, stage in enumerate(session.recipe.stages):
            stage_dir = run.stage(index, stage.name)
            if not world.from_leader(stage_dir.status_path.exists):
                trains = stage.kind in TRAINED_BY_ALL
                if trains:
                    session.close()
                context = session.context(stage.name, stage_dir, world if trains else world.leading)
                world.from_leader(session.stop.check)
                run_stage(stage, context, world)
            world.barrier("the end of the stage")
            if stage_dir.is_finished and world.is_leader:
                drop_directory(stage_dir.resume)
            if stage.name == until:
                break


def begin_run(base: StageContext, recipe_path: Path) -> None:
    """What comes before the first stage."""
    if is_changed(base.recipe, base.run):
        require_same_data(base)
        save_recipe(base.recipe, recipe_path, base.run)
    tell_changed_files(base)
    base.recorder.record_work("boot")
    prepare_base_model(base)


def open_run(recipe: Recipe, recipe_path: Path, run_dir: Path) -> RunDir:
    run = RunDir(run_dir.resolve())
    if not run.resolved_recipe_path.exists():
        save_recipe(recipe, recipe_path, run)
        return run
    require_same_run(recipe, run_dir, run)
    return run


def save_recipe(recipe: Recipe, recipe_path: Path, run: RunDir) -> None:
    """Keeps the recipe as it was written, then with everything filled in, which makes the run."""
    write_text_atomic(run.path / "recipe.yaml", recipe_path.read_text(encoding="utf-8"))
    write_text_atomic(run.resolved_recipe_path, dump_resolved(recipe))


def require_same_data(context: StageContext) -> None:
    """RecipeError unless the data at their new places are those that the run began with. The model
    was copied into the run, and may be anywhere.
    """
    path = context.run.path / "manifest.json"
    known = read_json(path)["data_sha256"] if path.exists() else {}
    found = data_hashes(context) if known else {}
    if changed := sorted(name for name in known if known[name] != found[name]):
        raise RecipeError(
            f"{context.run.path}: the recipe names another place for {', '.join(changed)}, and "
            "what is there differs from what the run began with; use --run-dir for another "
            "directory"
        )


def tell_changed_files(context: StageContext) -> None:
    """Warns of local files that changed since the run began: what is left of it reads the new."""
    path = context.run.path / "manifest.json"
    known = read_json(path).get("files_sha256", {}) if path.exists() else {}
    found = file_hashes(context.recipe, context.recipe_dir)
    for key in known:
        if found.get(key, known[key]) != known[key]:
            print(
                f"warning: {key}: the file has changed since the run began; stages that are not "
                "finished use it as it is now",
                file=sys.stderr,
            )


def prepare_base_model(context: StageContext) -> None:
    """Loads or makes the model that the run starts with, and writes the manifest."""
    run, recipe = context.run, context.recipe
    if run.base_model.exists():
        return
    context.recorder.stop_if_needed()  # data to be made or fetched can take long
    from vibelite.models.load import parameters_in, write_base_model
    from vibelite.stages.dry_pass import dry_pass, texts_of, tokenizer_of
    from vibelite.stages.window import check_prompts, require_window

    sandbox = describe_sandbox(recipe)
    with context.meter.span("load"):
        problem_sets, trace_sets = data_sets(context)
        tokenizer = tokenizer_of(recipe, context.recipe_dir, trace_sets)
        lines = dry_pass(recipe, problem_sets, trace_sets, tokenizer)
        print("\n".join(lines), file=sys.stderr)
        with new_directory(run.base_model) as temporary:
            write_base_model(
                recipe.model,
                temporary,
                recipe_dir=context.recipe_dir,
                texts=texts_of(trace_sets),
                seed=context.seed("weights"),
                dtype=recipe.training.dtype,
            )
            require_window(recipe, temporary)
            check_prompts(recipe, problem_sets, tokenizer, temporary)
            write_json_atomic(
                run.path / "manifest.json",
                environment_manifest(recipe, data_hashes=hashes_of(problem_sets | trace_sets))
                | {"decontamination": dropped_counts(run.path), "sandbox": sandbox}
                | {"files_sha256": file_hashes(recipe, context.recipe_dir)}
                | {"num_parameters": parameters_in(temporary)},
            )
    context.recorder.record_work("load")


def describe_sandbox(recipe: Recipe) -> dict[str, Any] | None:
    """How the run's programs are confined on this machine; None for a run without programs.

    Raises SandboxError where nothing confines them.
    """
    if not any(has_programs(source) for source in recipe.data.problems.values()):
        return None
    with Sandbox() as sandbox:
        return {"tier": sandbox.tier, "layers": sandbox.layers}


def data_sets(context: StageContext) -> tuple[dict[str, list[Problem]], dict[str, list[Trace]]]:
    """Every problem set and every set of traces."""
    data = context.recipe.data
    return (
        {name: context.problems(name) for name in data.problems},
        {name: context.traces(name) for name in data.traces},
    )


def data_hashes(context: StageContext) -> dict[str, str]:
    """SHA-256 over the content of every problem set and every set of traces."""
    problem_sets, trace_sets = data_sets(context)
    return hashes_of(problem_sets | trace_sets)


def hashes_of(sets: Mapping[str, Sequence[Problem] | Sequence[Trace]]) -> dict[str, str]:
    hashes = {}
    for name, rows in sets.items():
        digest = hashlib.sha256()
        for place, row in enumerate(rows):  # tests of programs are large
            digest.update(("\n" * (place > 0) + repr(row)).encode())
        hashes[name] = digest.hexdigest()
    return hashes


def run_stage(stage: AnyStage, context: StageContext, world: Ranks) -> None:
    """Runs one stage: the file under stages/ that is named after its kind, imported when needed."""
    run = import_module(f"vibelite.stages.{stage.kind}").run
    with context.verifiers:  # they end with the stage
        if world.is_one or stage.kind in TRAINED_BY_ALL:
            run(stage, context)
        else:
            from vibelite.stages.engines import help_leader

            world.from_leader(partial(run, stage, context), meanwhile=help_leader(context))
    if not world.is_one:
        gc.collect()  # a module that FSDP has wrapped refers to itself, and holds a GPU's memory

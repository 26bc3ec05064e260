"""The runs of `benchmarks.ablations`: what a seed's variants share, one variant, and their rows.

Everything is an ordinary recipe, written beside its run. Not here: which variants and seeds, in
what order, and the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from vibelite.pipeline import run_pipeline
from vibelite.recipe.load import dump_resolved
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import BASE, EvaluateStage, MGPOStage
from vibelite.run_dir import RunDir, read_json, read_jsonl, write_text_atomic
from vibelite.telemetry.ledger import run_cost

BENCHMARK = "held-out"
# The stages that a checkpoint of SFT costs; a recipe without distillation has paid nothing for it.
TRACES = ("distill", "sft")
Row = Mapping[str, Any]

# Every variant is this with its own changes, so that "full" means the same in every recipe.
FULL = {
    "maxent_lambda": 1.0,
    "aggregation": "sequence",
    "entropy_coef": 0.0,
    "kl_coef": 0.0,
    "long2short": 0.0,
}
REFILL = {"max_rounds": 2}


@dataclass(frozen=True, slots=True)
class Variant:
    """One MGPO stage: from which model, and what differs from `FULL`.

    start: fused; last = the last SFT checkpoint; best = the checkpoint with the highest Pass@K of
    the probe, averaged over sub-domains; full = what the variant of that name ended with.
    """

    name: str
    start: str = "fused"
    changes: Mapping[str, Any] = field(default_factory=dict)
    step_share: float = 1.0
    """Of the task's steps, so that a variant that samples more in a step samples no more in all."""


VARIANTS = (
    Variant("full"),
    Variant("grpo", changes={"maxent_lambda": 0.0}),
    Variant("no-probing", "last"),
    Variant("best-single", "best"),
    # A stage of its own after the full one, against as many more steps of that (3B report: 0.2).
    Variant("longer", "full"),
    Variant("long2short", "full", {"long2short": 0.2}),
    Variant("lambda-4", changes={"maxent_lambda": 4.0}),
    Variant("entropy-bonus", changes={"entropy_coef": 0.01}),  # the review's coefficient
    Variant("token", changes={"aggregation": "token"}),
    Variant("constant", changes={"aggregation": "constant"}),
    Variant("no-std", changes={"advantage": "no_std", "aggregation": "constant"}),  # Dr. GRPO
    Variant("maxrl", changes={"advantage": "maxrl", "maxent_lambda": 0.0}),
    Variant("gspo", changes={"ratio": "sequence", "updates_per_rollout": 4}),
    Variant("cispo", changes={"ratio": "cispo", "updates_per_rollout": 4}),
    Variant("lambda-2", changes={"maxent_lambda": 2.0}),
    Variant("lambda-8", changes={"maxent_lambda": 8.0}),
    # On the quickstart 73 % of the groups have a signal: two rounds sample 1 + 0.27 + 0.07 times as
    # many, and three quarters of the steps about as many tokens.
    Variant("grpo-refill", changes={"maxent_lambda": 0.0, "refill": REFILL}, step_share=0.75),
    Variant("full-refill", changes={"refill": REFILL}, step_share=0.75),
    Variant(
        "grpo-memory",
        changes={"maxent_lambda": 0.0, "refill": REFILL, "memory": {"decay": 0.98}},
        step_share=0.75,
    ),
    # With one update a rollout no ratio is clipped.
    Variant("four-updates", changes={"updates_per_rollout": 4}),
    Variant("clip-higher", changes={"updates_per_rollout": 4, "clip_high": 0.28}),  # DAPO's bound
)


@dataclass(frozen=True, slots=True)
class Task:
    """A recipe whose problems are generated, MGPO steps of a variant and of a second stage after
    it, and which variants.
    """

    recipe: Path
    num_steps: int
    num_second_steps: int
    variants: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ablation:
    """One seed of a task: the recipe with that seed, and where its runs are."""

    task: Task
    recipe: Recipe
    directory: Path

    def run_dir(self, name: str) -> RunDir:
        return RunDir((self.directory / name).resolve())

    def start(self, name: str) -> Path:
        """The directory of the model that a variant's `start` names."""
        shared = self.run_dir("shared")
        match name:
            case "fused":
                return shared.find_stage("fuse").models()["fuse"]
            case "last":
                return shared.find_stage("sft").models()["sft"]
            case "best":
                table = read_json(shared.find_stage("probe").path / "probe.json")
                return shared.find_stage("sft").checkpoints / best_checkpoint(table["checkpoints"])
            case _:
                return self.run_dir(name).find_stage("mgpo").models()["mgpo"].resolve()


def best_checkpoint(scores: Sequence[Mapping[str, Any]]) -> str:
    """The checkpoint with the highest Pass@K averaged over sub-domains; a tie goes to the higher
    Pass@1, then to the later one. `scores`: the checkpoints of probe.json.
    """
    best = max(
        scores,
        key=lambda score: (
            fmean(score["pass_at_k"].values()),
            fmean(score["pass_at_1"].values()),
            score["step"],
        ),
    )
    return best["path"]


def shared_recipe(recipe: Recipe) -> Recipe:
    """The recipe up to fusion, and an evaluation of what its last checkpoint and fusion give."""
    kinds = ("distill", "sft", "probe", "fuse")
    stages = [stage for stage in recipe.stages if stage.kind in kinds]
    evaluate = evaluation_of(recipe, ["sft", "fuse"])
    return recipe.model_copy(update={"stages": [*stages, evaluate]})


def variant_recipe(recipe: Recipe, variant: Variant, start: Path, *, num_steps: int) -> Recipe:
    """A recipe of one MGPO stage from `start` and its evaluation; also of the best checkpoint,
    which nothing else evaluates.

    A second stage has another name than the first, whose problems it would otherwise see again.
    """
    (mgpo,) = (stage for stage in recipe.stages if isinstance(stage, MGPOStage))
    name = "second" if variant.start == "full" else "mgpo"
    changes = {"name": name, "start_from": BASE, "num_steps": num_steps, **FULL, **variant.changes}
    models = [BASE, name] if variant.start == "best" else [name]
    values = recipe.model_dump(mode="json")
    values["name"] = f"ablation-{variant.name}"
    values["model"] = {"source": "pretrained", "path": str(start)}
    values["data"]["traces"] = {}
    values["stages"] = [
        mgpo.model_dump(mode="json") | changes,
        evaluation_of(recipe, models).model_dump(mode="json"),
    ]
    return Recipe.model_validate(values)


def evaluation_of(recipe: Recipe, models: list[str]) -> EvaluateStage:
    """The recipe's evaluation, of these models on the held-out problems alone."""
    (stage,) = (stage for stage in recipe.stages if isinstance(stage, EvaluateStage))
    return stage.model_copy(
        update={"name": "evaluate", "models": models, "benchmarks": [BENCHMARK]}
    )


def run_recipe(recipe: Recipe, directory: Path) -> None:
    """What `vibelite run` does with `recipe`, which is written beside `directory`; resumed if it
    was begun. In this process, which saves the seconds that it takes to start one.
    """
    path = directory.with_suffix(".yaml")
    write_text_atomic(path, dump_resolved(recipe))
    with (
        open(directory.with_suffix(".log"), "a", buffering=1) as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        run_pipeline(recipe, recipe_path=path, run_dir=directory)


def model_row(run: RunDir, model: Path) -> dict[str, Any]:
    """What the evaluation of `run` says of the model directory `model`: samples per problem, and by
    problem the number of correct ones and of all their tokens.
    """
    key = f"{BENCHMARK}--{'-'.join(model.resolve().relative_to(run.path).parts)}"
    correct: dict[str, int] = {}
    tokens: dict[str, int] = {}
    num_rows = 0
    for row in read_jsonl(run.find_stage("evaluate").samples_path):
        if row["key"] == key:
            problem = row["problem_id"]
            correct[problem] = correct.get(problem, 0) + (row["correct"] is True)
            tokens[problem] = tokens.get(problem, 0) + row["num_tokens"]
            num_rows += 1
    assert correct, f"no samples of {key} in {run.path}"
    return {
        "num_samples": num_rows // len(correct),
        "correct": list(correct.values()),
        "tokens": list(tokens.values()),
    }


def paid(run: RunDir, *stages: str) -> dict[str, float]:
    """Seconds and USD of these stages, lost time included."""
    costs = [run_cost(run.ledger_path, stage) for stage in stages]
    return {
        "seconds": sum(seconds for seconds, _ in costs),
        "usd": sum(usd for _, usd in costs if usd is not None),
    }


def added(first: Row, second: Row) -> dict[str, float]:
    return {key: first[key] + second[key] for key in ("seconds", "usd")}


def run_shared(ablation: Ablation) -> list[dict[str, Any]]:
    """The rows of the models that the variants start from: last, fused, tail-average."""
    run = ablation.run_dir("shared")
    run_recipe(shared_recipe(ablation.recipe), run.path)
    fused = run.find_stage("fuse").models()
    models = {
        "last": (run.find_stage("sft").models()["sft"], paid(run, *TRACES)),
        "fused": (fused["fuse"], paid(run, *TRACES, "probe", "fuse")),
    }
    if "tail-average" in fused:
        models["tail-average"] = (fused["tail-average"], paid(run, *TRACES))
    return [
        {"model": name, **cost, **model_row(run, path)} for name, (path, cost) in models.items()
    ]


def run_variant(
    ablation: Ablation, variant: Variant, known: Mapping[str, Row]
) -> list[dict[str, Any]]:
    """The row of a variant, and before that of `best-single` the row of the checkpoint it starts
    from. `known`: model -> row of this seed. Where the best checkpoint is the last, what is known
    of that is not run again.
    """
    start, starts_from_best = ablation.start(variant.start), variant.start == "best"
    is_last = start.resolve() == ablation.start("last").resolve()
    if starts_from_best and is_last and "no-probing" in known:
        return [
            same_but_probed(ablation, known["last"], "best"),
            same_but_probed(ablation, known["no-probing"], variant.name),
        ]
    is_second = variant.start == "full"
    num_steps = ablation.task.num_second_steps if is_second else ablation.task.num_steps
    num_steps = round(num_steps * variant.step_share)
    recipe = variant_recipe(ablation.recipe, variant, start, num_steps=num_steps)
    run = ablation.run_dir(variant.name)
    run_recipe(recipe, run.path)
    rows = []
    if starts_from_best:
        cost = paid(ablation.run_dir("shared"), *TRACES, "probe")
        rows.append({"model": "best", **cost, **model_row(run, run.base_model)})
    before = rows[0] if starts_from_best else known[variant.start]
    return [*rows, trained_row(variant, recipe, run, before)]


def same_but_probed(ablation: Ablation, row: Row, name: str) -> dict[str, Any]:
    """The row again for a model that is the same, but was found by probing."""
    cost = added(row, paid(ablation.run_dir("shared"), "probe"))
    return {**row, **cost, "model": name, "same_as": row["model"]}


def trained_row(variant: Variant, recipe: Recipe, run: RunDir, before: Row) -> dict[str, Any]:
    """The row of the model that a variant's MGPO stage made; `before`: that of its start."""
    mgpo = recipe.stages[0]
    assert isinstance(mgpo, MGPOStage)
    stage = run.find_stage(mgpo.name)
    counts = [row["counts"] for row in read_jsonl(stage.steps_path)]
    return {
        "model": variant.name,
        "changes": dict(variant.changes),
        **added(before, paid(run, mgpo.name)),
        "rl_completions": sum(count["num_completions"] for count in counts),
        "rl_tokens": sum(count["group_tokens"] for count in counts),
        **model_row(run, stage.models()[mgpo.name]),
    }

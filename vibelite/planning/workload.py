"""How much a recipe asks for, counted before anything runs: tokens, sequences, kept models."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from vibelite.data.benchmarks import BENCHMARKS
from vibelite.errors import RecipeError
from vibelite.recipe.data_section import GeneratedProblems, ProblemTable
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import (
    AnyStage,
    DistillStage,
    EvaluateStage,
    FilterStage,
    FuseStage,
    MGPOStage,
    ProbeStage,
    Sampling,
    SFTStage,
    as_list,
)


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What a plan cannot know; each can be set with --assume NAME=VALUE. Of the rates, those of
    products, attention and traffic are of GPUs.
    """

    prompt_tokens: float = 200.0
    """Mean tokens of a prompt."""
    length_fraction: float = 0.5
    """Mean tokens of a completion, as a share of max_new_tokens."""
    trace_fraction: float = 0.5
    """Mean tokens of a trace with its prompt, as a share of max_tokens."""
    unknown_problems: float = 1000.0
    """Problems of a set that cannot be counted beforehand."""
    trained_fraction: float = 1.0
    """Share of completions in groups of mixed outcome; the others have no gradient."""
    matmul_efficiency: float = 0.7
    """Share of the GPU's bfloat16 rate that products with weights reach."""
    attention_efficiency: float = 0.35
    """Share of that rate that attention reaches."""
    layer_traffic: float = 6.4
    """How many times a pass through a layer moves the bytes that the layer keeps through memory."""
    adapter_traffic: float = 2.7
    """The same of the inputs and outputs of its linear maps, where they have adapters."""
    decode_efficiency: float = 0.6
    """Share of the memory bandwidth that decoding reaches."""
    decode_step_seconds: float = 0.0015
    """Fixed time of one decoding step, beside reading weights and cache."""
    decode_row_seconds: float = 18e-6
    """What vLLM's scheduler adds to it for every sequence."""
    engine_start_seconds: float = 12.0
    """From nothing to a vLLM engine that samples."""
    model_gb_per_second: float = 0.4
    """Rate at which weights come from a file to where they are used, or go to one, sealed."""
    host_gb_per_second: float = 40.0
    """Rate at which the host's memory passes through adamw_cpu."""
    link_gb_per_second: float = 20.0
    """Rate at which one GPU sends to another: PCIe 4.0; NVLink is 5 to 20 times as fast."""
    context_gib: float = 0.75
    """GPU memory of the CUDA context and of libraries."""
    program_gib: float = 0.45
    """Memory of the program itself, on a CPU; measured with torch 2.13 and transformers 5.17."""


@dataclass(frozen=True, slots=True)
class Work:
    """One stage in numbers, over the whole of it; what a kind does not do is 0. Times follow from
    the mean lengths, peaks of memory from the longest.
    """

    stage: str
    kind: str
    num_steps: int = 0
    prompts: float = 0.0
    completions: float = 0.0
    max_new_tokens: int = 0
    # Sequences decoded, and prompts read, side by side.
    rows: int = 0
    prompts_at_once: int = 0
    is_paged: bool = False
    """Sampled by vLLM, whose cache grows page by page."""
    num_updates: int = 0
    trained_tokens: float = 0.0
    """That pass forward and backward, prompts included."""
    scored_tokens: float = 0.0
    """That pass forward alone: log-probs before the updates, those of the reference."""
    trained_length: float = 0.0
    """Mean tokens of a trained sequence."""
    head_share: float = 1.0
    """Of these the share that reaches the head: all but prompts."""
    num_micro_batches: float = 0.0
    micro_batch_tokens: int = 0
    """Tokens of the largest micro-batch that can occur."""
    accumulates: bool = False
    """Whether a step can have several micro-batches of that size: gradients then exist while
    activations are largest."""
    num_models: int = 1
    kept_models: int = 0
    holds_reference: bool = False
    """A second copy of the weights, for a KL penalty."""


def stage_work(recipe: Recipe, recipe_dir: Path, assumed: Assumptions) -> list[Work]:
    """Every stage of the recipe in order, in numbers. vLLM samples as many rows as it may have at
    once, of whatever group.
    """
    works = []
    for stage in recipe.stages:
        work = _work_of(stage, recipe, recipe_dir, assumed)
        sampling = getattr(stage, "sampling", None)
        if sampling is not None and recipe.rollout.engine == "vllm":
            at_once = work.completions
            if isinstance(stage, MGPOStage):
                at_once = stage.problems_per_step * stage.group_size
            work = replace(work, rows=int(min(sampling.max_sequences, at_once)), is_paged=True)
        works.append(work)
    return works


def _work_of(stage: AnyStage, recipe: Recipe, recipe_dir: Path, assumed: Assumptions) -> Work:
    def count(name: str) -> float:
        return count_problems(recipe, name, recipe_dir, assumed)

    def checkpoints(name: str) -> int:
        left_by = recipe.stage_named(name)
        return checkpoints_of(left_by) if isinstance(left_by, SFTStage) else 1

    match stage:
        case SFTStage():
            return _sft_work(stage, assumed)
        case MGPOStage():
            return _mgpo_work(stage, recipe, recipe_dir, assumed)
        case ProbeStage():
            num_problems = sum(map(count, as_list(stage.problems)))
            return _sampling_work(stage, num_problems, checkpoints(stage.start_from))
        case DistillStage():  # the student is a second model, which samples nothing
            return replace(_sampling_work(stage, count(stage.problems)), num_models=2)
        case FilterStage():
            return _sampling_work(stage, count(stage.problems))
        case EvaluateStage():
            num_models = len(recipe.models_to_evaluate(stage))
            return _sampling_work(stage, sum(map(count, stage.benchmarks)), num_models)
        case FuseStage():
            probe = recipe.stage_named(stage.start_from)
            assert isinstance(probe, ProbeStage), "a recipe is checked for it"
            num_models = checkpoints(probe.start_from)
            return Work(stage.name, stage.kind, num_models=num_models, kept_models=1)
        case _:
            return Work(stage.name, stage.kind, kept_models=1)


def _sft_work(stage: SFTStage, assumed: Assumptions) -> Work:
    length = assumed.trace_fraction * stage.max_tokens
    num = stage.sequences_per_step
    largest, accumulates = _largest_micro_batch(num, stage.max_tokens, stage.tokens_per_micro_batch)
    return Work(
        stage.name,
        stage.kind,
        num_steps=stage.num_steps,
        num_updates=stage.num_steps,
        trained_tokens=stage.num_steps * num * length,
        trained_length=length,
        head_share=max(0.5, 1 - assumed.prompt_tokens / length),
        num_micro_batches=stage.num_steps
        * _num_micro_batches(num, length, stage.tokens_per_micro_batch),
        micro_batch_tokens=largest,
        accumulates=accumulates,
        kept_models=checkpoints_of(stage),
    )


def groups_sampled(max_rounds: int, trained_fraction: float) -> float:
    """Groups that a step of MGPO samples for each one that it asks for: in every round of refill as
    many as the round before has left without a signal.

    >>> groups_sampled(2, 0.5)
    1.75
    """
    if not max_rounds or not trained_fraction:
        return 1.0 + max_rounds
    return (1 - (1 - trained_fraction) ** (max_rounds + 1)) / trained_fraction


def _mgpo_work(stage: MGPOStage, recipe: Recipe, recipe_dir: Path, assumed: Assumptions) -> Work:
    budget, num_new = stage.tokens_per_micro_batch, stage.sampling.max_new_tokens
    longest = math.ceil(assumed.prompt_tokens) + num_new
    length = assumed.prompt_tokens + assumed.length_fraction * num_new
    per_step = stage.problems_per_step * stage.group_size
    num_prefiltered = 0
    if stage.prefilter_samples:
        num_prefiltered = stage.prefilter_problems or count_problems(
            recipe, stage.problems, recipe_dir, assumed
        )
    acts_on_all = stage.entropy_coef > 0 or stage.kl_coef > 0
    sampled = groups_sampled(stage.refill.max_rounds, assumed.trained_fraction)
    num_trained = per_step * sampled * assumed.trained_fraction
    if acts_on_all and not stage.refill.max_rounds:
        num_trained = per_step
    num_scorings = (stage.updates_per_rollout > 1) + (stage.kl_coef > 0)
    largest, accumulates = _largest_micro_batch(per_step, longest, budget)
    passes = stage.num_steps * stage.updates_per_rollout
    at_once = _prompts_at_once(stage.sampling, stage.problems_per_step, stage.group_size)
    return Work(
        stage.name,
        stage.kind,
        num_steps=stage.num_steps,
        num_updates=passes,
        prompts=stage.num_steps * stage.problems_per_step * sampled + num_prefiltered,
        completions=stage.num_steps * per_step * sampled
        + num_prefiltered * stage.prefilter_samples,
        max_new_tokens=num_new,
        rows=at_once * stage.group_size,
        prompts_at_once=at_once,
        trained_tokens=passes * num_trained * length,
        scored_tokens=stage.num_steps * num_scorings * num_trained * length,
        trained_length=length,
        head_share=1 - assumed.prompt_tokens / length,
        num_micro_batches=passes * _num_micro_batches(num_trained, length, budget),
        micro_batch_tokens=largest,
        accumulates=accumulates,
        kept_models=1 + (stage.num_steps // stage.keep_every if stage.keep_every else 0),
        holds_reference=stage.kl_coef > 0 and recipe.adapter is None,
    )


def _largest_micro_batch(num: float, longest: int, budget: int) -> tuple[int, bool]:
    """Tokens of the largest micro-batch of `num` sequences of at most `longest` tokens, and whether
    a second one of that size can follow.
    """
    largest = int(max(longest, min(budget, num * longest)))
    return largest, num * longest >= 2 * largest


def _num_micro_batches(num: float, length: float, budget: int) -> float:
    return math.ceil(num / max(1, budget // length))


def _prompts_at_once(sampling: Sampling, num_prompts: float, num_samples: int) -> int:
    """Of the transformers engine, which samples whole groups side by side."""
    return int(min(num_prompts, max(1, sampling.max_sequences // num_samples)))


def _sampling_work(
    stage: ProbeStage | DistillStage | FilterStage | EvaluateStage,
    num_problems: float,
    num_models: int = 1,
) -> Work:
    num_prompts = num_models * num_problems
    at_once = _prompts_at_once(stage.sampling, num_prompts, stage.num_samples)
    return Work(
        stage.name,
        stage.kind,
        prompts=num_prompts,
        completions=num_prompts * stage.num_samples,
        max_new_tokens=stage.sampling.max_new_tokens,
        rows=at_once * stage.num_samples,
        prompts_at_once=at_once,
        num_models=num_models,
    )


def checkpoints_of(stage: SFTStage) -> int:
    return -(-stage.num_steps // stage.checkpoint_every)


def count_problems(recipe: Recipe, name: str, recipe_dir: Path, assumed: Assumptions) -> float:
    """Problems in the set `name`: counted where they are generated or in a local file. One of the
    hub is taken to have as many as the recipe takes at most, else `assumed.unknown_problems`.
    RecipeError for a file that does not exist.
    """
    source = recipe.data.problems[name]
    if isinstance(source, GeneratedProblems):
        return source.num_problems * len(source.tasks)
    limits = [source.num_problems] if source.num_problems else []
    if isinstance(source, ProblemTable):
        subdomains = set(source.columns.subdomains.values())
        if source.num_per_subdomain and subdomains:
            limits.append(source.num_per_subdomain * len(subdomains))
        path = source.local_path(recipe_dir)
        if path is None:
            return min(limits, default=assumed.unknown_problems)
        shares = {"all": 1.0, "train": 1 - source.held_out, "held-out": source.held_out}
        count = max(1, round(shares[source.part] * _count_rows(path, assumed)))
    elif source.path:
        count = _count_rows(recipe_dir / Path(source.path).expanduser(), assumed)
    else:
        count = BENCHMARKS[source.name].num_problems
    return min([count, *limits])


def _count_rows(path: Path, assumed: Assumptions) -> float:
    if not path.exists():
        raise RecipeError(f"{path}: no such file")
    match path.suffix:
        case ".jsonl" | ".csv":
            num_lines = sum(1 for line in path.read_bytes().splitlines() if line.strip())
            return num_lines - (path.suffix == ".csv")
        case ".parquet":
            from pyarrow.parquet import ParquetFile

            return ParquetFile(path).metadata.num_rows
        case _:
            return assumed.unknown_problems

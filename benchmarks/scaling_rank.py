"""One process of `benchmarks.scaling`: steps of SFT and MGPO on random weights by the stages' own
functions, on however many ranks were started. The leader writes rows to `--out`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch

from benchmarks.gpu_activations import QWEN_1_5B, TINY
from benchmarks.random_policy import (
    NoText,
    bare_trainer,
    half_right_groups,
    random_policy,
    random_prompts,
)
from benchmarks.row_report import row_saver
from vibelite.algorithms.advantages import group_advantages
from vibelite.data.batching import TrainingSequence
from vibelite.models.activations import apply_activations
from vibelite.models.policy import Policy
from vibelite.ranks.full_sharding import FullyShardedPolicy, fully_sharded
from vibelite.ranks.join import joined_world
from vibelite.ranks.ranks import Ranks
from vibelite.ranks.world import World
from vibelite.recipe.model_section import Training
from vibelite.recipe.stage_section import MGPOStage, Optimizer, Sampling, SFTStage
from vibelite.rollout.engine import RolloutEngine, SamplingSettings, generate
from vibelite.rollout.shared_engine import SharedEngine
from vibelite.rollout.transformers_engine import TransformersEngine
from vibelite.stages import mgpo, sft
from vibelite.telemetry.meter import Meter, joint_lap
from vibelite.training.optim import PolicyOptimizer
from vibelite.training.precision import DTYPES
from vibelite.training.shared_adamw import WholeWeightsAdamW
from vibelite.types import Completion, Group

OPTIMIZER = Optimizer(lr=1e-6, warmup_fraction=0)
NUM_STEPS = 3
"""Of which the first warms up."""


@dataclass(frozen=True)
class Work:
    """What every number of ranks does alike in a step."""

    config: Mapping[str, Any]
    dtype: str
    num_sequences: int
    sequence_tokens: int
    micro_batch_tokens: int
    num_prompts: int
    group_size: int
    prompt_tokens: int
    new_tokens: int
    rows_at_once: int


WORKS = {
    "qwen2.5-1.5b": Work(QWEN_1_5B, "bfloat16", 16, 8192, 16384, 32, 8, 128, 96, 64),
    "tiny": Work(TINY, "float32", 8, 64, 128, 8, 4, 16, 16, 8),
}


@dataclass
class Bench:
    """A policy on one rank with what trains it."""

    work: Work
    world: Ranks
    meter: Meter
    policy: Policy
    optimizer: PolicyOptimizer

    def synchronize(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def steps(self, part: str, num_tokens: int, step: Any) -> Iterator[dict[str, Any]]:
        """Runs `step(index)` some times; one row with the median of those after the first."""
        laps = []
        for index in range(NUM_STEPS):
            self.world.barrier("the next step")
            self.synchronize()
            self.meter.lap()
            self.world.sent_bytes.clear()
            step(index)
            self.synchronize()
            self.world.barrier("the end of the step")
            laps.append(self.world.gather(self.meter.lap()))
        walls = [joint_lap(step_laps).wall_seconds for step_laps in laps[1:]]
        chosen = laps[1:][walls.index(sorted(walls)[len(walls) // 2])]
        seconds = median(walls)
        waits = [lap.seconds.get("wait", 0.0) for lap in chosen]
        yield {
            "part": part,
            "num_gpus": self.world.num_ranks,
            "seconds": seconds,
            "all_seconds": walls,
            "tokens": num_tokens,
            "tokens_per_second": num_tokens / seconds,
            "sent_bytes": sent_bytes(self.world),
            "wait_share": sum(waits) / len(waits) / joint_lap(chosen).wall_seconds,
            "seconds_by_span": chosen[0].seconds,
        }


def sent_bytes(world: Ranks) -> float:
    """What this rank sent of the tensors that it handed over, in rings."""
    return (world.num_ranks - 1) / world.num_ranks * sum(world.sent_bytes.values())


def make_bench(work: Work, world: Ranks, meter: Meter, *, is_cut: bool) -> Bench:
    """The same random weights on every rank, or each its part of them."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, work.dtype)
    made = random_policy(work.config, dtype=dtype, device=device)
    policy = Policy(made.model, cast(Any, NoText()))
    sums = [float(parameter.double().sum()) for parameter in policy.trainable_parameters()]
    assert all(other == sums for other in world.gather(sums)), "ranks drew other weights"
    training = Training(dtype=cast(Any, work.dtype), activations="checkpoint")
    apply_activations(policy.model, training)
    if is_cut and isinstance(world, World):
        types = {"dtype": DTYPES[training.dtype], "gradient_dtype": DTYPES[training.gradient_dtype]}
        policy = fully_sharded(policy, world, **types)
    optimizer = PolicyOptimizer(policy, OPTIMIZER, num_steps=100, training=training, world=world)
    return Bench(work, world, meter, policy, optimizer)


def random_sequences(work: Work) -> list[TrainingSequence]:
    """Prompts with completions up to `sequence_tokens`."""
    size = (work.config["vocab_size"], work.num_sequences, work.sequence_tokens)
    return [TrainingSequence(ids, work.prompt_tokens) for ids in random_prompts(*size)]


def update(bench: Bench, step: int) -> None:
    with bench.meter.span("optimizer"):
        bench.optimizer.step(step)
        bench.optimizer.finish()
        bench.synchronize()


def sft_rows(bench: Bench) -> Iterator[dict[str, Any]]:
    work, sequences = bench.work, random_sequences(bench.work)
    stage = SFTStage(
        kind="sft", num_steps=1, checkpoint_every=1, optimizer=OPTIMIZER,
        tokens_per_micro_batch=work.micro_batch_tokens,
    )  # fmt: skip

    def step(index: int) -> None:
        with bench.meter.span("train"):
            sft.accumulate_gradient(bench.policy, sequences, stage, world=bench.world)
        update(bench, index)

    yield from bench.steps("sft", work.num_sequences * work.sequence_tokens, step)


def mgpo_trainer(bench: Bench, engine: RolloutEngine) -> mgpo.Trainer:
    work = bench.work
    stage = MGPOStage(
        kind="mgpo", num_steps=1, optimizer=OPTIMIZER, group_size=work.group_size,
        sampling=Sampling(max_new_tokens=work.new_tokens),
        tokens_per_micro_batch=work.micro_batch_tokens,
    )  # fmt: skip
    trainer = bare_trainer(stage, bench.policy, bench.optimizer, engine)
    return replace(trainer, world=bench.world)


def train_on(bench: Bench, trainer: mgpo.Trainer, groups: list[Group], step: int) -> None:
    """The update of an MGPO step on groups that all ranks have."""
    with bench.meter.span("train"):
        advantages = [group_advantages(group.rewards) for group in groups]
        batches = mgpo.training_batches(trainer, groups, advantages)
        with bench.policy.accumulating(len(batches)):
            parts = [mgpo.accumulate_gradient(trainer, batch, None, None) for batch in batches]
        bench.world.joined(parts)
    update(bench, step)


def long_update_rows(bench: Bench) -> Iterator[dict[str, Any]]:
    """MGPO's update on responses of `sequence_tokens`."""
    work = bench.work
    trainer = mgpo_trainer(bench, cast(Any, None))
    ids = [sequence.token_ids for sequence in random_sequences(work)]
    completions = [
        Completion(tuple(one[work.prompt_tokens :]), (-11.9,) * (len(one) - work.prompt_tokens),
                   "length", "")
        for one in ids
    ]  # fmt: skip
    starts = range(0, work.num_sequences, min(work.group_size, work.num_sequences))
    groups = half_right_groups(
        [ids[start][: work.prompt_tokens] for start in starts],
        [completions[start : start + starts.step] for start in starts],
    )
    tokens = work.num_sequences * work.sequence_tokens
    yield from bench.steps("mgpo update", tokens, partial(train_on, bench, trainer, groups))


def mgpo_rows(bench: Bench) -> Iterator[dict[str, Any]]:
    """Whole MGPO steps; what is sampled never ends early, so that all do the same work."""
    work, world, meter = bench.work, bench.world, bench.meter
    prompts = random_prompts(work.config["vocab_size"], work.num_prompts, work.prompt_tokens)
    own = TransformersEngine(bench.policy, stop_ids=[-1], max_sequences=work.rows_at_once)
    waiting = partial(meter.span, "wait")
    shared = None if world.is_one else SharedEngine(own, world, work.rows_at_once, waiting)
    engine = own if shared is None else shared
    trainer = mgpo_trainer(bench, engine)
    rollouts: list[float] = []

    def sample(step: int) -> list[Group]:
        settings = SamplingSettings(work.group_size, work.new_tokens)
        with meter.span("rollout"):
            sampled = generate(engine, prompts, settings, seed=step)
        return half_right_groups(prompts, sampled)

    def help_with(task: Any) -> None:
        assert shared is not None
        with meter.span("rollout"):
            shared.help(task)

    def step(index: int) -> None:
        started = time.perf_counter()
        groups = world.from_leader(partial(sample, index), meanwhile=help_with)
        rollouts.append(time.perf_counter() - started)
        train_on(bench, trainer, groups, index)

    generated = work.num_prompts * work.group_size * work.new_tokens
    for row in bench.steps("mgpo step", generated, step):
        seconds = median(rollouts[1:])
        yield {**row, "rollout_seconds": seconds, "rollout_tokens_per_second": generated / seconds}


def communication_rows(bench: Bench) -> Iterator[dict[str, Any]]:
    """The two exchanges of an update by themselves, and the bytes that this rank handed over."""
    world = bench.world
    if world.is_one or isinstance(bench.policy, FullyShardedPolicy):
        return  # the latter exchanges in every pass: the steps' rows count it
    parameters = list(bench.policy.trainable_parameters())
    update = bench.optimizer._update
    assert isinstance(update, WholeWeightsAdamW)
    seconds = []
    for _ in range(NUM_STEPS):
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter, dtype=torch.float32)
        world.barrier("the exchange")
        bench.synchronize()
        world.sent_bytes.clear()
        started = time.perf_counter()
        update.gradients()
        update.drop_gradients()
        update._write_weights()
        bench.synchronize()
        seconds.append(time.perf_counter() - started)
    handed, sent = dict(world.sent_bytes), sent_bytes(world)
    yield {
        "part": "communication",
        "num_gpus": world.num_ranks,
        "seconds": median(seconds[1:]),
        "handed_bytes": handed,
        "sent_bytes": sent,
        "bytes_per_second": sent / median(seconds[1:]),
    }


PARTS = {
    "sft": sft_rows,
    "update": long_update_rows,
    "communication": communication_rows,
    "mgpo": mgpo_rows,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", choices=list(WORKS), required=True)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--full-sharding", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    save, rows, meter = row_saver(arguments.out), [], Meter()
    with joined_world(600.0, partial(meter.span, "wait")) as world:
        if not torch.cuda.is_available():
            torch.set_num_threads(1)
        bench = make_bench(WORKS[arguments.work], world, meter, is_cut=arguments.full_sharding)
        for part in arguments.parts:
            for row in PARTS[part](bench):
                rows.append(row)
                if world.is_leader:
                    save(rows)
                    print(f"{row['part']} on {row['num_gpus']}: {row['seconds']:.3f} s")


if __name__ == "__main__":
    sys.exit(main())

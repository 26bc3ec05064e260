"""Work for measurements in which only sizes matter: policies with random weights, random tokens,
and the step of a stage made of its own functions.

Two things differ from a run: no completion ends early, and every second one of a group is right.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, cast

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from vibelite.algorithms.advantages import mgpo_advantages
from vibelite.data.batching import TrainingSequence, pack
from vibelite.models.attention import ATTENTION
from vibelite.models.policy import Policy
from vibelite.recipe.stage_section import MGPOStage, SFTStage
from vibelite.rollout.engine import generate
from vibelite.stages import mgpo, sft
from vibelite.stages.context import sampling_settings
from vibelite.stages.sft import weighted_nll
from vibelite.training.optim import PolicyOptimizer
from vibelite.types import Completion, Group, Problem, TokenBatch, Verdict


def random_policy(
    config: Mapping[str, Any], *, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Policy:
    """A Qwen2 model of these sizes, without a tokenizer; weights from a fixed seed, on `device`
    from the start.
    """
    default = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Qwen2ForCausalLM(Qwen2Config(**config))
    finally:
        torch.set_default_dtype(default)
    model.set_attn_implementation(ATTENTION)
    return Policy(model.eval(), cast(Any, None))


def random_batch(
    lengths: list[int],
    vocab_size: int,
    *,
    trained_share: float = 1.0,
    device: torch.device | str = "cpu",
) -> TokenBatch:
    """Sequences of these lengths end to end; the last `trained_share` of each is trained on."""
    generator = torch.Generator().manual_seed(0)
    sequences = []
    for length in lengths:
        trained = min(length - 1, max(1, int(length * trained_share)))
        tokens = torch.randint(vocab_size, (length,), generator=generator).tolist()
        sequences.append(TrainingSequence(tokens, length - trained, 1 / sum(lengths)))
    return pack(sequences, torch.device(device))


def train(policy: Policy, batch: TokenBatch) -> None:
    """Forward and backward of one micro-batch, as supervised fine-tuning runs them."""
    weights = batch.token_weights[batch.completion_mask]
    policy.token_loss(batch, partial(weighted_nll, weights)).loss.backward()


class NoText:
    """Stands in for a tokenizer: random weights have no words."""

    def batch_decode(self, rows: list[Any], **_: object) -> list[str]:
        return [""] * len(rows)


def random_prompts(vocab_size: int, num: int, length: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocab_size, (num, length), generator=generator).tolist()


def now(device: torch.device) -> float:
    """Seconds on a clock, once the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def half_right_groups(
    prompts: Sequence[Sequence[int]], sampled: Sequence[Sequence[Completion]]
) -> list[Group]:
    problem = Problem("0", "all", ({"role": "user", "content": ""},), "", "exact")
    return [
        Group(
            problem,
            tuple(prompt),
            tuple(completions),
            tuple(Verdict(place % 2, bool(place % 2)) for place in range(len(completions))),
        )
        for prompt, completions in zip(prompts, sampled, strict=True)
    ]


def bare_trainer(
    stage: MGPOStage, policy: Policy, optimizer: PolicyOptimizer, engine: Any = None
) -> mgpo.Trainer:
    """The stage's own trainer without a run around it; without an engine it can only update."""
    return mgpo.Trainer(stage, cast(Any, None), policy, None, engine, optimizer)


Part = Callable[[str], AbstractContextManager[Any]]


def sft_step(
    policy: Policy,
    optimizer: PolicyOptimizer,
    sequences: list[TrainingSequence],
    stage: SFTStage,
    step: int,
    part: Part,
) -> None:
    """One SFT step; each of its parts runs within `part(name)`."""
    with part("train"):
        sft.accumulate_gradient(policy, sequences, stage, loss_scale=optimizer.loss_scale)
    with part("optimizer"):
        optimizer.step(step)
        optimizer.finish()


def mgpo_step(
    trainer: mgpo.Trainer, prompts: Sequence[Sequence[int]], step: int, part: Part
) -> int:
    """One MGPO step, sampling included, and the tokens sampled; each of its parts runs within
    `part(name)`.
    """
    stage, engine = trainer.stage, trainer.engine
    settings = sampling_settings(stage.sampling, stage.group_size)
    with part("wake"):
        engine.wake()
    with part("generate"):
        sampled = generate(engine, prompts, settings, seed=step)
    with part("sleep"):
        engine.sleep()
    with part("train"):
        groups = half_right_groups(prompts, sampled)
        advantages = [
            mgpo_advantages(group.rewards, group.pass_rate, stage.maxent_lambda)[0]
            for group in groups
        ]
        for batch in mgpo.training_batches(trainer, groups, advantages):
            known = mgpo.frozen_logprobs(trainer, batch)
            mgpo.accumulate_gradient(trainer, batch, *known)
    with part("optimizer"):
        trainer.optimizer.step(step)
        trainer.optimizer.finish()
    with part("sync"):
        engine.load_weights(step + 1)
    return sum(len(one.token_ids) for group in sampled for one in group)

"""200 steps of which ranks take uneven shares, or none: one rank's part of it, run by
test_uneven_shares.py. Writes how far each mechanism ends from a single process that takes all.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from tests.policies import random_sequences, tiny_policy
from vibelite.data.batching import TrainingSequence, pack
from vibelite.models.policy import Policy
from vibelite.ranks.full_sharding import fully_sharded
from vibelite.ranks.join import joined_world
from vibelite.ranks.protocol import ONE_RANK, Ranks
from vibelite.ranks.world import World
from vibelite.recipe.stage_section import Optimizer
from vibelite.stages.sft import weighted_nll
from vibelite.training.optim import PolicyOptimizer

NUM_STEPS = 200
OPTIMIZER = Optimizer(
    lr=1e-4, weight_decay=0.3, warmup_fraction=0.1, schedule="cosine", max_grad_norm=0.5
)


def sequences_of(step: int) -> list[list[TrainingSequence]]:
    """By rank of three the sequences of a step: none of a rank now and then."""
    draw = random.Random(step)
    shares: list[list[TrainingSequence]] = [[], [], []]
    chosen = draw.sample(range(3), draw.randint(1, 3))
    for sequence in random_sequences(5, seed=step, longest=12):
        shares[draw.choice(chosen)].append(sequence)
    return shares


def train_step(policy: Policy, share: Sequence[TrainingSequence], num_tokens: int) -> None:
    """Adds the gradient of a share, a micro-batch for each sequence."""
    with policy.accumulating(len(share)):
        for sequence in share:
            batch = pack([replace(sequence, token_weight=1 / num_tokens)], policy.device)
            weights = batch.token_weights[batch.completion_mask]
            policy.token_loss(batch, partial(weighted_nll, weights)).loss.backward()


def sample(policy: Policy, num_passes: int) -> None:
    """Forward passes as an engine runs them: other ranks run more, fewer or none."""
    batch = pack(random_sequences(1), policy.device)
    with torch.no_grad():
        for _ in range(num_passes):
            policy.logprobs(batch)


def train(policy: Policy, world: Ranks) -> list[torch.Tensor]:
    """The weights after all steps."""
    optimizer = PolicyOptimizer(policy, OPTIMIZER, num_steps=NUM_STEPS, world=world)
    draw = random.Random(world.rank)
    for step in range(NUM_STEPS):
        sample(policy, draw.choice([0, 0, 1, 3]))
        shares = sequences_of(step)
        num_tokens = sum(sum(s.completion_mask) for share in shares for s in share)
        mine = [s for share in shares for s in share] if world.is_one else shares[world.rank]
        train_step(policy, mine, num_tokens)
        optimizer.step(step)
        optimizer.finish()
    return [weight.detach().clone() for weight in policy.model.parameters()]


def main(out: Path) -> None:
    torch.set_num_threads(1)
    with joined_world(timeout_seconds=120) as world:
        whole = train(tiny_policy(), world)
        assert isinstance(world, World)
        types = {"dtype": torch.float32, "gradient_dtype": torch.float32}
        cut = train(fully_sharded(tiny_policy(), world, **types), world)
    alone = train(tiny_policy(), ONE_RANK)
    far = {
        name: max(float((a - b).abs().max()) for a, b in zip(weights, alone, strict=True))
        for name, weights in (("whole", whole), ("full", cut))
    }
    moved = zip(alone, tiny_policy().model.parameters(), strict=True)
    far["moved"] = max(float((a - b).detach().abs().max()) for a, b in moved)
    out.with_name(f"{out.name}-{world.rank}").write_text(json.dumps(far), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""200 steps of which ranks take uneven shares, or none: one rank's part of it, run by
test_uneven_shares.py. Writes how far each way of holding the weights ends from a single process
that takes all; and resumes a state of each in both.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from tests.policies import random_sequences, tiny_policy
from tests.saving import save_training_state
from tests.training.gradients import weights_of
from vibelite.data.batching import TrainingSequence, pack
from vibelite.models.policy import Policy
from vibelite.ranks.full_sharding import fully_sharded
from vibelite.ranks.join import joined_world
from vibelite.ranks.ranks import ONE_RANK, Ranks
from vibelite.ranks.world import World
from vibelite.recipe.model_section import Training
from vibelite.recipe.stage_section import Optimizer
from vibelite.stages.sft import weighted_nll
from vibelite.training.checkpoint import load_training_state
from vibelite.training.optim import PolicyOptimizer
from vibelite.training.precision import DTYPES

Dtype = Literal["float32", "bfloat16"]
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


def one_step(policy: Policy, optimizer: PolicyOptimizer, world: Ranks, step: int) -> None:
    """One update from all ranks' shares."""
    shares = sequences_of(step)
    num_tokens = sum(s.num_trained for share in shares for s in share)
    mine = [s for share in shares for s in share] if world.is_one else shares[world.rank]
    train_step(policy, mine, num_tokens)
    optimizer.step(step)
    optimizer.finish()


def start(
    world: Ranks, dtype: Dtype, *, is_cut: bool = False, seed: int = 0
) -> tuple[Policy, PolicyOptimizer]:
    policy = tiny_policy(seed)
    policy.model.to(getattr(torch, dtype))
    if is_cut:
        assert isinstance(world, World)
        policy = fully_sharded(policy, world, dtype=DTYPES[dtype], gradient_dtype=torch.float32)
    training = Training(dtype=dtype)
    return policy, PolicyOptimizer(
        policy, OPTIMIZER, num_steps=NUM_STEPS, training=training, world=world
    )


def weights_after(world: Ranks, *, is_cut: bool = False) -> list[torch.Tensor]:
    """The weights after all steps."""
    policy, optimizer = start(world, "float32", is_cut=is_cut)
    draw = random.Random(world.rank)
    for step in range(NUM_STEPS):
        sample(policy, draw.choice([0, 0, 1, 3]))
        one_step(policy, optimizer, world, step)
    return weights_of(policy)


def masters_of(optimizer: PolicyOptimizer) -> list[torch.Tensor]:
    """This rank's rows."""
    return [master.to_local() for master in optimizer.state_dict()["masters"].values()]


def require_masters_resumed(world: Ranks, directory: Path) -> None:
    """A state of 16-bit weights, cut or whole, gives both ways of holding them the same masters."""
    for saves_cut in (False, True):
        policy, optimizer = start(world, "bfloat16", is_cut=saves_cut)
        for step in range(2):
            one_step(policy, optimizer, world, step)
        root = directory / f"states-{saves_cut}"
        save_training_state(root, 2, policy, optimizer, world=world)
        for loads_cut in (False, True):
            again, loaded = start(world, "bfloat16", is_cut=loads_cut, seed=9)
            assert load_training_state(root, again, loaded, world=world) == 2
            loaded.finish()
            assert all(map(torch.equal, masters_of(loaded), masters_of(optimizer)))
            assert all(map(torch.equal, weights_of(again), weights_of(policy)))
            rounded = [master.bfloat16() for master in masters_of(loaded)]
            assert not all(map(torch.equal, masters_of(loaded), [r.float() for r in rounded]))


def main(out: Path) -> None:
    torch.set_num_threads(1)
    with joined_world(timeout_seconds=120) as world:
        whole = weights_after(world)
        cut = weights_after(world, is_cut=True)
        require_masters_resumed(world, out.parent)
    alone = weights_after(ONE_RANK)
    far = {
        name: max(float((a - b).abs().max()) for a, b in zip(weights, alone, strict=True))
        for name, weights in (("whole", whole), ("full", cut))
    }
    moved = zip(alone, weights_of(tiny_policy()), strict=True)
    far["moved"] = max(float((a - b).abs().max()) for a, b in moved)
    out.with_name(f"{out.name}-{world.rank}").write_text(json.dumps(far), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

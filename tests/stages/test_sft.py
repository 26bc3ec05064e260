"""Supervised fine-tuning: the mean over the step's trained tokens, whatever the micro-batches."""

import math

import pytest
import torch

from tests.policies import random_sequences, tiny_policy
from vibelite.recipe.stage_section import Optimizer, SFTStage
from vibelite.stages.sft import accumulate_gradient


def run_step(policy, sequences, tokens_per_micro_batch):
    stage = SFTStage(
        kind="sft",
        num_steps=1,
        checkpoint_every=1,
        optimizer=Optimizer(lr=1e-3),
        tokens_per_micro_batch=tokens_per_micro_batch,
    )
    loss, num_tokens = accumulate_gradient(policy, sequences, stage)
    grads = [p.grad.flatten() for p in policy.model.parameters() if p.grad is not None]
    return loss, num_tokens, torch.cat(grads)


def test_micro_batch_size_does_not_change_loss_or_gradient():
    sequences = random_sequences(12)
    loss, num_tokens, whole = run_step(tiny_policy(), sequences, 10_000)
    split_loss, split_tokens, split = run_step(tiny_policy(), sequences, 30)
    assert split_tokens == num_tokens == sum(len(s.token_ids) for s in sequences)
    assert split_loss == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(split, whole, rtol=0, atol=2e-5 * whole.abs().max().item())


def test_loss_is_the_mean_over_completion_tokens_only():
    policy = tiny_policy()
    sequences = random_sequences(6)
    loss, _, _ = run_step(policy, sequences, 10_000)
    policy.model.set_attn_implementation("eager")
    total, count = 0.0, 0
    for sequence in sequences:
        ids = torch.tensor([list(sequence.token_ids)])
        logprobs = torch.log_softmax(policy.model(input_ids=ids).logits[0].double(), dim=-1)
        for position in range(sequence.num_prompt_tokens, len(sequence.token_ids)):
            total -= logprobs[position - 1, ids[0, position]].item()
            count += 1
    assert loss == pytest.approx(total / count, rel=1e-5)
    assert loss > math.log(20), "the case must be far from learned"

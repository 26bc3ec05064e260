"""The alarm that stops a run whose sampler is another policy, and what it advises before."""

import math

import pytest
import torch

from tests.policies import tiny_policy
from tests.stages.test_mgpo import advantages_of, gradient, make_groups, make_trainer
from vibelite.algorithms.mismatch import mismatch_metrics
from vibelite.data.batching import TrainingSequence, pack
from vibelite.errors import EngineError
from vibelite.stages.mgpo import accumulate_gradient, training_batches
from vibelite.stages.mgpo_metrics import require_agreement
from vibelite.stages.mismatch import advice


def test_a_step_at_the_limit_passes():
    metrics = mismatch_metrics(torch.tensor([0.1, -0.1, 0.2]))
    require_agreement(metrics, limit=metrics["mismatch/k3"])


@pytest.mark.parametrize("log_ratios", [[1.0, -1.0], [math.nan, 0.0], [math.inf, 0.0]])
def test_a_step_above_the_limit_or_without_a_number_stops_the_run(log_ratios):
    with pytest.raises(EngineError, match=r"max_mismatch_kl is 0\.05; no update was made"):
        require_agreement(mismatch_metrics(torch.tensor(log_ratios)), limit=0.05)


def test_the_next_finer_type_is_advised_where_rounding_is_noticeable():
    assert advice(0.001, "bfloat16", 0.05) == "bfloat16 agrees"
    assert advice(0.01, "bfloat16", 0.05) == "use training.dtype float16"
    assert advice(0.01, "float16", 0.05) == "use training.dtype float32"
    assert "another cause" in advice(0.01, "float32", 0.05)


def test_completions_too_far_from_the_sampler_have_no_gradient():
    groups = make_groups()
    advantages = advantages_of(groups)
    policy = tiny_policy()
    kept = []  # by completion, in order, where the group has a signal
    for group in groups[:2]:
        for completion in group.completions:
            tokens = [*group.prompt_ids, *completion.token_ids]
            sequence = TrainingSequence(tokens, len(group.prompt_ids))
            batch = pack([sequence], torch.device("cpu"))
            logprobs = policy.logprobs(batch, temperature=0.9)[0].tolist()
            apart = [p - q for p, q in zip(logprobs, completion.sampler_logprobs, strict=True)]
            kept.append(abs(sum(apart) / len(apart)) <= math.log(20.0))
    assert 0 < sum(kept) < 8, "the case must contain both"

    rejecting, _ = gradient(groups, max_sequence_ratio=20.0)
    everything, _ = gradient(groups)
    flags = iter(kept)
    without = [[a * next(flags) for a in values] for values in advantages[:2]] + advantages[2:]
    trainer = make_trainer(policy)
    for batch in training_batches(trainer, groups, without):
        accumulate_gradient(trainer, batch, None, None)
    expected = torch.cat(
        [p.grad.flatten() for p in policy.model.parameters() if p.grad is not None]
    )
    torch.testing.assert_close(rejecting, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    assert (rejecting - everything).abs().max() > 0.01 * everything.abs().max()

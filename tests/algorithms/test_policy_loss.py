"""The policy loss and its gradient against a loop over tokens in float64; the mismatch of sampler
and trainer against plain arithmetic and the KL that it estimates.
"""

import math

import pytest
import torch

from vibelite.algorithms.policy_loss import (
    LossInputs,
    LossSettings,
    mismatch_metrics,
    policy_diagnostics,
    policy_loss,
    sequence_ratios,
    token_weights,
)

LENGTHS = [3, 1, 5, 2]
NUM_TOKENS = sum(LENGTHS)


def expected_loss(columns, settings):
    """The objective written as a loop over tokens; returns the loss and its derivative by each
    log-prob.
    """
    logps, old, sampler, ref, entropies, advantages, weights = columns
    loss, gradient = 0.0, []
    for t in range(NUM_TOKENS):
        ratio = math.exp(logps[t] - old[t])
        low, high = 1 - settings.clip_low, 1 + settings.clip_high
        unclipped, clipped = ratio * advantages[t], min(max(ratio, low), high) * advantages[t]
        importance = min(math.exp(old[t] - sampler[t]), settings.importance_cap)
        penalty = (logps[t] - ref[t]) ** 2 / 2
        term = (
            importance * min(unclipped, clipped)
            + settings.entropy_coef * entropies[t]
            - settings.kl_coef * penalty
        )
        slope = importance * unclipped if unclipped <= clipped or low <= ratio <= high else 0.0
        slope -= settings.kl_coef * (logps[t] - ref[t])
        loss -= weights[t] * term
        gradient.append(-weights[t] * slope)
    return loss, gradient


def random_inputs(seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(scale):
        return scale * torch.randn(NUM_TOKENS, generator=generator, dtype=torch.float64)

    logps = draw(1.0) - 2
    return (
        logps,
        logps + draw(0.3),
        logps + draw(0.5),
        logps + draw(0.4),
        draw(1.0).abs(),
        draw(1.0),
    )


@pytest.mark.parametrize("aggregation", ["sequence", "token", "constant"])
@pytest.mark.parametrize("seed", range(5))
def test_loss_and_gradient_equal_a_loop_over_tokens(seed, aggregation):
    logps, old, sampler, ref, entropies, advantages = random_inputs(seed)
    settings = LossSettings(
        clip_low=0.2, clip_high=0.28, entropy_coef=0.01, kl_coef=0.1, importance_cap=1.5
    )
    per_sequence = token_weights(torch.tensor(LENGTHS), aggregation, max_new_tokens=8)
    weights = per_sequence.double().repeat_interleave(torch.tensor(LENGTHS))

    variable = logps.clone().requires_grad_()
    entropies.requires_grad_()
    inputs = LossInputs(advantages, weights, old, sampler, ref)
    loss = policy_loss(variable, entropies, inputs, settings).sum()
    loss.backward()
    assert entropies.grad is not None
    torch.testing.assert_close(entropies.grad, -settings.entropy_coef * weights)
    diagnostics = policy_diagnostics(logps, inputs, settings)

    columns = [
        tensor.tolist() for tensor in (logps, old, sampler, ref, entropies, advantages, weights)
    ]
    value, gradient = expected_loss(columns, settings)
    assert loss.item() == pytest.approx(value, rel=1e-12)
    assert variable.grad is not None
    assert variable.grad.tolist() == pytest.approx(gradient, rel=1e-9, abs=1e-15)
    ratio = torch.exp(logps - old)
    is_clipped = ((ratio > 1.28) & (advantages > 0)) | ((ratio < 0.8) & (advantages < 0))
    assert torch.equal(diagnostics["clipped"].bool(), is_clipped)
    assert is_clipped.any(), "the case must contain clipped tokens"


def test_the_penalty_has_the_gradient_of_the_kl_to_the_reference():
    """Over all tokens of a distribution, each as likely as it is sampled."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, generator=generator, dtype=torch.float64).requires_grad_()
    reference = torch.randn(20, generator=generator, dtype=torch.float64).log_softmax(0)
    logprobs = logits.log_softmax(0)
    (expected,) = torch.autograd.grad((logprobs.exp() * (logprobs - reference)).sum(), logits)
    none = torch.zeros(20, dtype=torch.float64)
    logprobs = logits.log_softmax(0)
    inputs = LossInputs(none, logprobs.exp().detach(), ref_logprobs=reference)
    policy_loss(logprobs, none, inputs, LossSettings(kl_coef=1.0)).sum().backward()
    torch.testing.assert_close(logits.grad, expected)


def test_gspo_is_the_clipped_ratio_of_completions():
    """The objective of arXiv 2507.18071, equation 5, and its gradient by autograd."""
    logps, old, _, _, entropies, advantages = random_inputs(4)
    lengths = torch.tensor(LENGTHS)
    of_completions = advantages[:4].repeat_interleave(lengths)
    settings = LossSettings(clip_low=0.05, clip_high=0.08, ratio="sequence")
    weights = token_weights(lengths, "sequence", 8).double().repeat_interleave(lengths)
    variable = logps.clone().requires_grad_()
    inputs = LossInputs(
        of_completions, weights, old, sequence_ratios=sequence_ratios(logps - old, lengths)
    )
    loss = policy_loss(variable, entropies, inputs, settings).sum()
    loss.backward()
    again = logps.clone().requires_grad_()
    value, num_clipped = torch.zeros(()), 0
    parts = zip(again.split(LENGTHS), old.split(LENGTHS), advantages[:4], strict=True)
    for now, before, advantage in parts:
        s = torch.exp((now - before).sum() / len(now))
        kept = s.clamp(0.95, 1.08)
        num_clipped += int(s != kept)
        value = value - torch.minimum(s * advantage, kept * advantage) / 4
    value.backward()
    assert 0 < num_clipped < 4
    assert loss.item() == pytest.approx(value.item(), rel=1e-6)  # the weights are float32
    torch.testing.assert_close(variable.grad, again.grad, rtol=1e-6, atol=0)


def test_cispo_weighs_every_gradient_by_its_clipped_ratio():
    """By hand: the gradient of -w clip(ratio) A logp with the ratio a constant."""
    logps, old, sampler, _, entropies, advantages = random_inputs(5)
    settings = LossSettings(clip_low=0.1, clip_high=0.2, importance_cap=1.5, ratio="cispo")
    weights = torch.rand(NUM_TOKENS, dtype=torch.float64)
    variable = logps.clone().requires_grad_()
    inputs = LossInputs(advantages, weights, old, sampler)
    policy_loss(variable, entropies, inputs, settings).sum().backward()
    expected = [
        -w * min(max(math.exp(p - o), 0.9), 1.2) * a * min(math.exp(o - q), 1.5)
        for p, o, q, a, w in zip(
            *(column.tolist() for column in (logps, old, sampler, advantages, weights)), strict=True
        )
    ]
    assert variable.grad is not None
    assert variable.grad.tolist() == pytest.approx(expected, rel=1e-12)


def test_on_policy_gradient_is_that_of_the_log_prob():
    logps, _, _, _, entropies, advantages = random_inputs(0)
    inputs = LossInputs(advantages, torch.rand(NUM_TOKENS, dtype=torch.float64))
    variable = logps.clone().requires_grad_()
    policy_loss(variable, entropies, inputs, LossSettings()).sum().backward()
    assert variable.grad is not None
    torch.testing.assert_close(
        variable.grad, -inputs.token_weights * advantages, rtol=1e-14, atol=0
    )
    assert policy_diagnostics(logps, inputs, LossSettings())["clipped"].sum() == 0


def test_diagnostics_are_the_mismatch_and_the_kl_estimate():
    logps, old, sampler, ref, _, advantages = random_inputs(2)
    inputs = LossInputs(advantages, torch.ones(NUM_TOKENS), old, sampler, ref)
    diagnostics = policy_diagnostics(logps, inputs, LossSettings())
    torch.testing.assert_close(diagnostics["mismatch"], old - sampler)
    expected = [
        math.exp(r - p) - (r - p) - 1 for p, r in zip(logps.tolist(), ref.tolist(), strict=True)
    ]
    assert diagnostics["kl"].tolist() == pytest.approx(expected)


def test_the_loss_of_some_tokens_is_part_of_the_whole():
    logps, old, sampler, ref, entropies, advantages = random_inputs(3)
    inputs = LossInputs(advantages, torch.rand(NUM_TOKENS), old, sampler, ref)
    settings = LossSettings(kl_coef=0.1, entropy_coef=0.01)
    whole = policy_loss(logps, entropies, inputs, settings)
    rows = slice(3, 7)
    assert torch.equal(
        policy_loss(logps[rows], entropies[rows], inputs.at(rows), settings), whole[rows]
    )


def test_token_weights_are_the_three_averages():
    lengths = torch.tensor([2, 8])
    assert token_weights(lengths, "sequence", 10).tolist() == pytest.approx([1 / 4, 1 / 16])
    assert token_weights(lengths, "token", 10).tolist() == pytest.approx([1 / 10, 1 / 10])
    assert token_weights(lengths, "constant", 10).tolist() == pytest.approx([1 / 20, 1 / 20])


def test_statistics_are_those_of_plain_arithmetic():
    log_ratios = [0.5, -0.25, 0.0, 1.5]
    metrics = mismatch_metrics(torch.tensor(log_ratios))
    weights = [math.exp(d) for d in log_ratios]
    assert metrics["mismatch/mean_abs"] == pytest.approx(2.25 / 4)
    assert metrics["mismatch/max_abs"] == pytest.approx(1.5)
    k3 = sum(w - 1 - d for w, d in zip(weights, log_ratios, strict=True)) / 4
    assert metrics["mismatch/k3"] == pytest.approx(k3)
    share = sum(weights) ** 2 / (4 * sum(w * w for w in weights))
    assert metrics["mismatch/effective_sample_share"] == pytest.approx(share)


def test_k3_of_the_samplers_tokens_estimates_the_kl_between_two_distributions():
    generator = torch.Generator().manual_seed(0)
    sampler = torch.randn(50, generator=generator, dtype=torch.float64).log_softmax(0)
    nudged = sampler + 0.3 * torch.randn(50, generator=generator, dtype=torch.float64)
    trainer = nudged.log_softmax(0)
    kl = (sampler.exp() * (sampler - trainer)).sum().item()
    tokens = torch.multinomial(sampler.exp(), 200_000, replacement=True, generator=generator)
    estimate = mismatch_metrics((trainer - sampler)[tokens])["mismatch/k3"]
    assert estimate == pytest.approx(kl, rel=0.02)


@pytest.mark.parametrize(
    ("log_ratios", "name", "expected"),
    [
        ([1e-6, -2e-6], "k3", 1.25e-12),  # half their square, and not negative
        ([700.0] * 8, "effective_sample_share", 1.0),
        ([800.0] + [0.0] * 7, "effective_sample_share", 1 / 8),  # one giant
    ],
)
def test_extreme_ratios_lose_no_precision(log_ratios, name, expected):
    metrics = mismatch_metrics(torch.tensor(log_ratios, dtype=torch.float64))
    assert metrics[f"mismatch/{name}"] == pytest.approx(expected, rel=1e-4)

"""Sampling from logits: the right distribution, its exact log-probs, row by row."""

import math

import pytest
import torch

from vibelite.rollout.engine import SamplingSettings
from vibelite.rollout.transformers_engine import keep_top_p, sample_tokens

NUM_DRAWS = 40_000
VOCAB = 40
# The 0.999 quantile of chi-square with 39 degrees of freedom, for fewer it is smaller.
CHI_SQUARE_999 = 72.1


def settings(temperature: float = 1.0, top_p: float = 1.0) -> SamplingSettings:
    return SamplingSettings(1, 1, temperature=temperature, top_p=top_p)


def some_logits(rows: int, vocab: int, *, seed: int = 0, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def some_uniforms(rows: int, *, seed: int = 1) -> torch.Tensor:
    return torch.rand(rows, generator=torch.Generator().manual_seed(seed))


def exact_log_probs(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """The distribution by its definition, in float64, token by token."""
    log_p = torch.log_softmax(logits.double() / temperature, dim=-1)
    for row in log_p:
        kept = 0.0
        for token in row.argsort(descending=True).tolist():
            probability = math.exp(row[token])
            if kept >= top_p:
                row[token] = -math.inf
            kept += probability
    return log_p - log_p.logsumexp(-1, keepdim=True)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 3.0])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_draws_follow_the_distribution(temperature: float, top_p: float) -> None:
    logits = some_logits(1, VOCAB)
    tokens, _ = sample_tokens(
        logits.expand(NUM_DRAWS, -1), some_uniforms(NUM_DRAWS), settings(temperature, top_p)
    )
    expected = NUM_DRAWS * exact_log_probs(logits, temperature, top_p)[0].exp()
    counts = torch.bincount(tokens, minlength=VOCAB)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    # Cells with few draws are joined, where chi-square is not yet a good approximation.
    small = possible & (expected < 5)
    cells = [
        (counts[possible & ~small].double(), expected[possible & ~small]),
        (counts[small].sum()[None].double(), expected[small].sum()[None]),
    ]
    statistic = sum(((c - e) ** 2 / e.clamp(min=1e-9)).sum().item() for c, e in cells)
    assert statistic < CHI_SQUARE_999


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 0.3, 5.0])
@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_log_probs_are_exact(dtype: torch.dtype, temperature: float, top_p: float) -> None:
    logits = some_logits(200, 501).to(dtype)
    tokens, logprobs = sample_tokens(logits, some_uniforms(200), settings(temperature, top_p))
    expected = exact_log_probs(logits, temperature, top_p).gather(1, tokens[:, None]).squeeze(1)
    assert logprobs.dtype == torch.float32
    assert (logprobs.double() - expected).abs().max() <= 2e-6


@pytest.mark.parametrize("shift", [-3e4, 3e4])
def test_logits_of_any_size_keep_their_distribution(shift: float) -> None:
    # Multiples of 1/256 survive the shift exactly.
    logits = (some_logits(100, 60) * 256).round() / 256
    near = sample_tokens(logits, some_uniforms(100), settings(0.7))
    far = sample_tokens(logits + shift, some_uniforms(100), settings(0.7))
    assert torch.equal(near[0], far[0])
    assert torch.equal(near[1], far[1])


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_row_alone_and_among_others_gives_the_same_bits(top_p: float) -> None:
    logits, uniforms = some_logits(17, 1003), some_uniforms(17)
    tokens, logprobs = sample_tokens(logits, uniforms, settings(0.8, top_p))
    for row in range(17):
        one = slice(row, row + 1)
        token, logprob = sample_tokens(logits[one], uniforms[one], settings(0.8, top_p))
        assert torch.equal(token, tokens[one])
        assert torch.equal(logprob, logprobs[one])


def test_logits_and_uniforms_are_left_as_they_were() -> None:
    logits, uniforms = some_logits(5, 30), some_uniforms(5)
    before = logits.clone(), uniforms.clone()
    sample_tokens(logits, uniforms, settings(1.0, 0.9))
    assert torch.equal(logits, before[0])
    assert torch.equal(uniforms, before[1])


def test_temperature_zero_is_the_most_likely_token_at_log_prob_zero() -> None:
    logits = some_logits(50, 100)
    tokens, logprobs = sample_tokens(logits, some_uniforms(50), settings(0.0))
    assert torch.equal(tokens, logits.argmax(-1))
    assert torch.equal(logprobs, torch.zeros(50))


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_extreme_uniforms_never_pick_impossible_tokens(top_p: float) -> None:
    logits = torch.tensor([[-math.inf, 0.0, 0.0, -math.inf]]).repeat(2, 1)
    tokens, logprobs = sample_tokens(logits, torch.tensor([0.0, 1 - 2**-24]), settings(1.0, top_p))
    assert tokens.tolist() == [1, 2]
    torch.testing.assert_close(logprobs, torch.full((2,), -math.log(2)))


def test_a_row_of_nan_shows_in_its_log_prob_and_not_in_its_neighbour() -> None:
    logits = some_logits(2, 30)
    alone = sample_tokens(logits[1:], torch.tensor([0.4]), settings())
    logits[0, 3] = math.nan
    tokens, logprobs = sample_tokens(logits, torch.tensor([0.4, 0.4]), settings())
    assert math.isnan(logprobs[0])
    assert (tokens[1], logprobs[1]) == (alone[0][0], alone[1][0])


def test_top_p_keeps_the_smallest_sufficient_set() -> None:
    weights = 3 * torch.tensor([[0.1, 0.5, 0.15, 0.25]])
    kept = keep_top_p(weights, 0.7)
    assert torch.equal(kept, torch.tensor([[0.0, weights[0, 1], 0.0, weights[0, 3]]]))


def test_top_p_below_every_probability_keeps_one_token_and_the_first_of_equals() -> None:
    assert keep_top_p(torch.ones(1, 4), 1e-6).tolist() == [[1.0, 0.0, 0.0, 0.0]]

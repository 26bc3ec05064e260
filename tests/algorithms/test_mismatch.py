"""Mismatch statistics against plain arithmetic and against the KL they estimate."""

import math
from fractions import Fraction

import pytest
import torch

from vibelite.algorithms.mismatch import mismatch_metrics, sequence_means, tokens_to_keep


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


def test_k3_of_tiny_differences_is_half_their_square_and_not_negative():
    log_ratios = torch.tensor([1e-6, -2e-6], dtype=torch.float64)
    assert mismatch_metrics(log_ratios)["mismatch/k3"] == pytest.approx(1.25e-12, rel=1e-4)


def test_equal_weights_are_worth_all_samples_and_one_giant_is_worth_one():
    assert mismatch_metrics(torch.full((8,), 700.0))[
        "mismatch/effective_sample_share"
    ] == pytest.approx(1)
    giant = torch.tensor([800.0] + [0.0] * 7)
    assert mismatch_metrics(giant)["mismatch/effective_sample_share"] == pytest.approx(1 / 8)


def test_means_are_by_sequence():
    values = torch.tensor([1.0, 3.0, 10.0, -2.0])
    owners = torch.tensor([0, 0, 2, 2])
    expected = [float(Fraction(4, 2)), 0.0, float(Fraction(8, 2))]
    assert sequence_means(values, owners, 3).tolist() == expected


def test_a_completion_is_left_out_by_its_geometric_mean_and_not_by_its_length():
    long = [0.01] * 1000  # the product of the ratios is e^10, their geometric mean 1.01
    short = [0.5, 0.6]
    under = [-0.5, -0.6]
    mixed = [0.9, -0.9]  # large but balanced
    log_ratios = torch.tensor(long + short + under + mixed)
    owners = torch.tensor([0] * 1000 + [1, 1, 2, 2, 3, 3])
    keep = tokens_to_keep(log_ratios, owners, 4, max_ratio=1.5)  # log 1.5 = 0.405
    assert keep.tolist() == [True] * 1000 + [False] * 4 + [True] * 2

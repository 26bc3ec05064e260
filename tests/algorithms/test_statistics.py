"""Intervals: how often they hold the truth, and what they say where the bootstrap says nothing."""

import numpy as np
import pytest

from vibelite.algorithms.statistics import (
    mean_with_interval,
    paired_difference,
    sampling_error,
)

NUM_BOOTSTRAP = 1000


def interval(values, seed=0, **options):
    return mean_with_interval(values, num_bootstrap=NUM_BOOTSTRAP, seed=seed, **options)


def coverage(draw, truth, num_trials=400):
    """Share of simulated evaluations whose interval holds the true mean, and its standard error."""
    generator = np.random.default_rng(7)
    hits = 0
    for trial in range(num_trials):
        _, low, high = interval(draw(generator), seed=trial)
        hits += low <= truth <= high
    share = hits / num_trials
    return share, (0.95 * 0.05 / num_trials) ** 0.5


@pytest.mark.parametrize(
    ("level", "low", "high"),
    [(0.95, 0.0275, 0.26832939228476904), (0.8, 0.0425, 0.1975)],
)
def test_the_interval_of_skewed_values_is_scipys_bca(level, low, high):
    """Of scipy 1.17.1 for the same values:

    scipy.stats.bootstrap((values,), np.mean, n_resamples=4000, confidence_level=level,
    method="BCa", rng=np.random.default_rng(7)). Its percentile interval is 0.015 to 0.21 at 95%.
    """
    values = [0.0] * 14 + [0.05, 0.1, 0.1, 0.2, 0.4, 1.0]
    found = mean_with_interval(values, num_bootstrap=4000, seed=7, level=level)
    assert found == pytest.approx((0.0925, low, high), rel=1e-12)


@pytest.mark.parametrize(
    ("problems", "samples", "alpha", "truth", "num_trials"),
    # The quickstart's evaluation, of unequal difficulty; the report's AIME and HMMT.
    [(200, 8, 0.5, 1 / 3, 400), (30, 64, 1.0, 0.5, 1000)],
)
def test_interval_covers_the_mean_of_pass_rates(problems, samples, alpha, truth, num_trials):
    def draw(generator):
        return generator.binomial(samples, generator.beta(alpha, 1.0, size=problems)) / samples

    share, error = coverage(draw, truth, num_trials)
    assert abs(share - 0.95) < 3 * error


def test_sampling_error_by_hand_and_by_simulation():
    # (1/4 3/4 + 1/2 1/2) / 3, under the root, over 2 problems.
    assert sampling_error([1, 2], 4) == pytest.approx(((3 / 16 + 1 / 4) / 3) ** 0.5 / 2)
    assert sampling_error([1, 0], 1) is None
    generator = np.random.default_rng(5)
    chances = generator.random(30)
    counts = generator.binomial(64, chances, size=(4000, 30))
    estimates = [sampling_error(row.tolist(), 64) or 0.0 for row in counts[:200]]
    assert np.mean(estimates) == pytest.approx((counts / 64).mean(axis=1).std(), rel=0.05)


def test_interval_covers_a_rare_success():
    def draw(generator):
        return generator.binomial(1, 0.02, size=100).astype(float)

    share, error = coverage(draw, truth=0.02)
    assert share > 0.95 - 4 * error


def test_all_wrong_and_all_correct_get_the_clopper_pearson_bound():
    # Clopper-Pearson for 0 of 10 at 95%: [0, 0.3085]; for 10 of 10 its mirror image.
    assert interval([0.0] * 10) == pytest.approx((0.0, 0.0, 0.3085), abs=5e-5)
    assert interval([1.0] * 10) == pytest.approx((1.0, 0.6915, 1.0), abs=5e-5)


def test_equal_values_between_the_bounds_have_an_interval_on_both_sides():
    mean, low, high = interval([0.25] * 40)
    assert 0 <= low < mean < high <= 1
    assert high - mean == pytest.approx(3 * (mean - low))


def test_same_seed_gives_the_same_interval():
    values = [0.0, 1.0, 0.5, 0.25, 1.0, 0.0, 0.0]
    assert interval(values, seed=3) == interval(values, seed=3)
    assert interval(values, seed=3) != interval(values, seed=4)


def test_pairing_removes_the_difficulty_of_the_problems():
    difficulty = np.random.default_rng(3).random(100) * 0.8
    gain = np.random.default_rng(4).random(100) * 0.1
    a, b = (difficulty + gain).tolist(), difficulty.tolist()
    mean, low, high = paired_difference(a, b, num_bootstrap=NUM_BOOTSTRAP, seed=0)
    _, low_a, _ = interval(a)
    _, _, high_b = interval(b)
    assert mean == pytest.approx(gain.mean(), abs=1e-12)
    assert 0.03 < low < mean < high < 0.07
    assert low_a < high_b, "the unpaired intervals overlap"


def test_identical_results_differ_by_zero_with_a_width():
    mean, low, high = paired_difference([1.0] * 20, [1.0] * 20, num_bootstrap=100, seed=0)
    assert mean == 0.0
    assert low == pytest.approx(-high)
    assert 0.1 < high < 0.2


@pytest.mark.parametrize("values", [[], [0.5, 1.5], [0.5, np.nan]])
def test_values_without_a_meaning_are_refused(values):
    with pytest.raises(ValueError, match="needs values, all within"):
        interval(values)

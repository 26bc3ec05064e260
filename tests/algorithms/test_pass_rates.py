"""The posterior of pass rates, against numbers by hand and against drawn groups."""

from random import Random

import pytest
import torch

from vibelite.algorithms.pass_rates import PRIOR, mixed_probability, no_counts, update_counts


def counts_of(*rows: tuple[float, float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_the_chance_of_a_mixed_group_by_hand() -> None:
    # Beta(1/2, 1/2): E[p^2] = (1/2 3/2) / (1 2) = 3/8, and as much for all wrong.
    assert mixed_probability(no_counts(1), 2).tolist() == pytest.approx([1 / 4])
    # Beta(3/2, 1/2): E[p^2] = (3/2 5/2) / (2 3) = 5/8, E[(1-p)^2] = (1/2 3/2) / (2 3) = 1/8.
    assert mixed_probability(counts_of((1, 0), (0, 1)), 2).tolist() == pytest.approx([1 / 4] * 2)
    # Beta(3/2, 3/2): (3/2 5/2) / (3 4) = 5/16 on either side.
    assert mixed_probability(counts_of((1, 1)), 2).tolist() == pytest.approx([3 / 8])


@pytest.mark.parametrize("counts", [(0, 0), (0, 8), (3.5, 4.5), (7, 1), (40, 0.25)])
def test_the_chance_of_a_mixed_group_is_that_of_drawn_ones(counts: tuple[float, float]) -> None:
    size, num_draws = 8, 200_000
    generator = torch.Generator().manual_seed(0)
    a, b = (counts_of(counts)[0] + PRIOR).tolist()
    beta = Random(0).betavariate
    rates = torch.tensor([beta(a, b) for _ in range(num_draws)], dtype=torch.float64)[:, None]
    right = torch.rand(num_draws, size, generator=generator, dtype=torch.float64) < rates
    mixed = (right.any(1) & ~right.all(1)).double().mean().item()
    # Four standard errors are at most 4 sqrt(1/4 / 200000) = 0.0045.
    assert mixed_probability(counts_of(counts), size).item() == pytest.approx(mixed, abs=0.0045)


def test_certainty_of_either_kind_leaves_no_chance_and_loses_no_digits() -> None:
    never, always, half = mixed_probability(counts_of((0, 1e9), (1e9, 0), (1e9, 1e9)), 8).tolist()
    assert 0 <= never < 1e-7 and 0 <= always < 1e-7
    assert half == pytest.approx(1 - 2 / 2**8)


def test_counts_fade_and_groups_are_added() -> None:
    counts = counts_of((4, 2), (1, 1), (0, 0))
    update_counts(counts, 0.5, [2, 1, 2], [0.25, 1.0, 0.5], 8)
    assert counts.tolist() == [[2, 1], [8.5, 0.5], [6, 10]]


def test_what_is_forgotten_is_as_if_it_had_not_been() -> None:
    counts = counts_of((0, 8), (0, 0))
    for _ in range(2000):
        update_counts(counts, 0.9, [], [], 8)
    first, second = mixed_probability(counts, 8).tolist()
    assert first == pytest.approx(second)

"""The data cursor is the step number."""

import pytest

from vibelite.data.prompt_sampler import indices_for_step


def test_each_epoch_uses_every_item_once_across_uneven_batches():
    drawn = [index for step in range(10) for index in indices_for_step(7, 7, step, seed=3)]
    assert all(sorted(drawn[start : start + 7]) == list(range(7)) for start in range(0, 70, 7))
    uneven = [index for step in range(14) for index in indices_for_step(7, 5, step, seed=3)]
    assert uneven == drawn


def test_epochs_and_seeds_have_their_own_order():
    assert indices_for_step(50, 50, 0, seed=1) != indices_for_step(50, 50, 1, seed=1)
    assert indices_for_step(50, 50, 0, seed=1) != indices_for_step(50, 50, 0, seed=2)


def test_a_batch_larger_than_the_data_repeats_it():
    assert sorted(indices_for_step(2, 6, 0, seed=0)) == [0, 0, 0, 1, 1, 1]


def test_nothing_to_draw_from_is_an_error():
    with pytest.raises(ValueError, match="nothing"):
        indices_for_step(0, 1, 0, seed=0)

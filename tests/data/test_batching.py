"""Packing and the split into micro-batches."""

import random

import torch

from vibelite.data.batching import TrainingSequence, pack, split_by_tokens


def test_every_sequence_lands_in_exactly_one_micro_batch_within_budget():
    draw = random.Random(0)
    for _ in range(50):
        lengths = [draw.randint(1, 60) for _ in range(draw.randint(1, 40))]
        batches = split_by_tokens(lengths, 64)
        assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
        assert all(sum(lengths[index] for index in batch) <= 64 for batch in batches)


def test_a_sequence_over_the_budget_stands_alone():
    assert split_by_tokens([10, 100, 5], 20) == [[1], [0, 2]]


def test_packing_lays_sequences_end_to_end():
    first = TrainingSequence([5, 6, 7], [False, True, True], 0.5, 2.0, [-0.1, -0.2])
    second = TrainingSequence([8, 9], [False, True], 0.25, -1.0, [-0.3])
    batch = pack([first, second], torch.device("cpu"))
    assert batch.input_ids.tolist() == [5, 6, 7, 8, 9]
    assert batch.position_ids.tolist() == [0, 1, 2, 0, 1]
    assert batch.cu_seqlens.tolist() == [0, 3, 5]
    assert batch.completion_mask.tolist() == [False, True, True, False, True]
    assert batch.token_weights.tolist() == [0, 0.5, 0.5, 0, 0.25]
    assert batch.advantages.tolist() == [0, 2, 2, 0, -1]
    assert batch.sampler_logprobs is not None
    torch.testing.assert_close(batch.sampler_logprobs, torch.tensor([0, -0.1, -0.2, 0, -0.3]))
    assert (batch.num_tokens, batch.num_sequences) == (5, 2)

"""Which items a step uses, packing, and the split into micro-batches."""

import random

import pytest
import torch

from vibelite.data.batching import (
    TrainingSequence,
    indices_for_step,
    pack,
    split_by_tokens,
    tokenize_traces,
)
from vibelite.data.chat import trace_ids
from vibelite.models.tiny import build_tokenizer
from vibelite.recipe.data_section import Data
from vibelite.types import Trace


def test_every_sequence_lands_in_exactly_one_micro_batch_within_budget():
    draw = random.Random(0)
    for _ in range(50):
        lengths = [draw.randint(1, 60) for _ in range(draw.randint(1, 40))]
        batches = split_by_tokens(lengths, 64)
        assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
        assert all(sum(lengths[index] for index in batch) <= 64 for batch in batches)


def test_a_sequence_over_the_budget_stands_alone():
    assert split_by_tokens([10, 100, 5], 20) == [[1], [0, 2]]


def test_traces_of_more_than_the_most_tokens_are_left_out():
    question = {"role": "user", "content": "How many?"}
    texts = ["two", "two and two and two", "two and two"]
    answers = [{"role": "assistant", "content": text} for text in texts]
    traces = [Trace("p", "", (question, answer)) for answer in answers]
    tokenizer = build_tokenizer([*texts, question["content"]], 300)
    ids = [trace_ids(tokenizer, trace.messages)[0] for trace in traces]
    kept = tokenize_traces(tokenizer, traces, chat=Data(), max_tokens=len(ids[2]))
    assert [sequence.token_ids for sequence in kept] == [ids[0], ids[2]]


def test_packing_lays_sequences_end_to_end():
    first = TrainingSequence([5, 6, 7], 1, 0.5, 2.0, [-0.1, -0.2])
    second = TrainingSequence([8, 9], 1, 0.25, -1.0, [-0.3])
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


def test_a_mask_says_the_same_as_the_number_of_prompt_tokens():
    masked = TrainingSequence([5, 6, 7, 8], completion_mask=[False, False, True, True])
    assert masked == TrainingSequence([5, 6, 7, 8], 2)
    assert masked.num_trained == 2

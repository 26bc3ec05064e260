"""Packed attention: no leak between sequences, and the gradient of the unpacked computation."""

import torch

from tests.policies import random_sequences, tiny_policy
from vibelite.data.batching import pack
from vibelite.models.attention import packed_layout

CPU = torch.device("cpu")


def test_buckets_hold_every_token_once_and_waste_less_than_half():
    lengths = [1, 50, 7, 26, 25, 3, 3, 24]
    boundaries = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    layout = packed_layout(boundaries)
    tokens = torch.cat([bucket.token_index for bucket in layout.buckets])
    assert sorted(tokens.tolist()) == list(range(sum(lengths)))
    for bucket in layout.buckets:
        assert len(bucket.token_index) >= bucket.num_rows * bucket.width / 2
        assert len(set(bucket.slots.tolist())) == len(bucket.slots)


def test_packed_log_probs_equal_those_of_each_sequence_alone():
    policy = tiny_policy()
    sequences = random_sequences(9, longest=40)
    packed, _ = policy.logprobs(pack(sequences, CPU))
    alone = torch.cat([policy.logprobs(pack([sequence], CPU))[0] for sequence in sequences])
    torch.testing.assert_close(packed, alone, rtol=0, atol=2e-5)


def test_a_sequence_does_not_see_its_neighbours():
    policy = tiny_policy()
    first, second, other = random_sequences(3, seed=5)
    with_second, _ = policy.logprobs(pack([first, second], CPU))
    with_other, _ = policy.logprobs(pack([first, other], CPU))
    own = sum(first.completion_mask)
    torch.testing.assert_close(with_second[:own], with_other[:own], rtol=0, atol=1e-5)


def test_log_probs_agree_with_transformers_own_forward():
    """Independent of packing: plain eager attention, full logits, log_softmax, shift by one."""
    policy = tiny_policy()
    sequences = random_sequences(5, seed=2)
    packed, entropy = policy.logprobs(pack(sequences, CPU), temperature=0.7)
    policy.model.set_attn_implementation("eager")
    expected, expected_entropy = [], []
    for sequence in sequences:
        ids = torch.tensor([list(sequence.token_ids)])
        logprobs = torch.log_softmax(policy.model(input_ids=ids).logits[0].double() / 0.7, dim=-1)
        for position, is_trained in enumerate(sequence.completion_mask):
            if is_trained:
                expected.append(logprobs[position - 1, ids[0, position]].item())
                row = logprobs[position - 1]
                expected_entropy.append(-(row.exp() * row).sum().item())
    torch.testing.assert_close(packed.double(), torch.tensor(expected).double(), rtol=0, atol=5e-5)
    torch.testing.assert_close(
        entropy.double(), torch.tensor(expected_entropy).double(), rtol=0, atol=5e-5
    )


def test_packed_gradient_equals_the_sum_of_unpacked_gradients():
    sequences = random_sequences(7, seed=3, longest=33)
    gradients = []
    for groups in ([sequences], [[sequence] for sequence in sequences]):
        policy = tiny_policy()
        for group in groups:
            batch = pack(group, CPU)
            logprobs, entropy = policy.logprobs(batch)
            weights = batch.token_weights[batch.completion_mask]
            (weights * (logprobs + 0.1 * entropy)).sum().backward()
        gradients.append(
            torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None])
        )
    scale = gradients[1].abs().max().item()
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-5 * scale)

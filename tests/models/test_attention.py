"""Packed attention: no leak between sequences, and the gradient of the unpacked computation."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.policies import random_sequences, tiny_policy
from vibelite.data.batching import pack
from vibelite.models import attention
from vibelite.models.attention import attention_forward, packed_layout, runs_varlen

CPU = torch.device("cpu")
States = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
LENGTHS = [1, 50, 7, 26, 64, 3, 3, 24, 65]


def random_heads(
    lengths: list[int], *, dtype: torch.dtype, device: str = "cpu", head_size: int = 16
) -> tuple[States, torch.Tensor, torch.Tensor]:
    """Queries of 6 heads, keys and values of 2 [1, heads, N, D], boundaries, an upstream
    gradient.
    """
    generator = torch.Generator().manual_seed(0)
    num = sum(lengths)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype)

    query, key, value = (draw(1, heads, num, head_size).requires_grad_() for heads in (6, 2, 2))
    boundaries = torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)
    return (query, key, value), boundaries, draw(1, num, 6, head_size)


def attend(
    states: States, boundaries: torch.Tensor, scaling: float, **options: Any
) -> torch.Tensor:
    module, layout = torch.nn.Module(), packed_layout(boundaries)
    return attention_forward(module, *states, None, layout, scaling=scaling, **options)[0]


def plain_attention(
    states: States,
    lengths: list[int],
    scaling: float,
    *,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
) -> torch.Tensor:
    """One sequence after the other, by the definition."""
    query, key, value = states
    outputs, start = [], 0
    for length in lengths:
        q, k, v = (x[0, :, start : start + length] for x in (query, key, value))
        k, v = (x.repeat_interleave(query.shape[1] // key.shape[1], 0) for x in (k, v))
        back = torch.arange(length)[:, None] - torch.arange(length)
        unseen = (back < 0) | (back >= (sliding_window or length))
        scores = q @ k.transpose(1, 2) * scaling
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        weights = scores.exp().masked_fill(unseen.to(q.device), 0)
        total = weights.sum(-1, keepdim=True)
        if s_aux is not None:
            total = total + s_aux.exp()[:, None, None]
        outputs.append((weights / total @ v).transpose(0, 1))
        start += length
    return torch.cat(outputs)[None]


def test_buckets_hold_every_token_once_and_waste_less_than_half():
    lengths = [1, 50, 7, 26, 25, 3, 3, 24]
    layout = packed_layout(torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()]))
    buckets, slots = layout.buckets
    grouped = [[len(row.unique()) for row in bucket] for bucket in buckets]
    assert grouped == [[50, 26, 25], [24], [7], [3, 3], [1]]
    held = torch.cat([bucket.flatten() for bucket in buckets])
    assert held[slots].tolist() == list(range(sum(lengths)))
    assert len(set(slots.tolist())) == sum(lengths)
    for bucket in buckets:
        assert len(bucket.unique()) >= bucket.numel() / 2


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 2e-6)], ids=["f64", "f32"]
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sliding_window": 7},
        {"sliding_window": 1000},
        {"softcap": 0.7},
        {"softcap": 0.7, "sliding_window": 2},
        {"s_aux": torch.linspace(-1, 2, 6).double(), "sliding_window": 7},
    ],
    ids=str,
)
def test_packed_attention_and_its_gradients_are_those_of_the_definition(dtype, tolerance, options):
    states, boundaries, upstream = random_heads(LENGTHS, dtype=dtype)
    query, key, value = (state.detach().double().requires_grad_() for state in states)
    exact = query, key, value
    output = attend(states, boundaries, 0.3, **options)
    expected = plain_attention(exact, LENGTHS, 0.3, **options)
    pairs = [(output, expected)]
    gradients = torch.autograd.grad(output, states, upstream)
    pairs += zip(gradients, torch.autograd.grad(expected, exact, upstream.double()), strict=True)
    for found, wanted in pairs:
        scale = wanted.abs().max().item()
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_no_gradient_crosses_from_one_sequence_into_another(device):
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    states, boundaries, _ = random_heads(LENGTHS, dtype=dtype, device=device, head_size=64)
    assert runs_varlen(states[0][0].transpose(0, 1)) == (device == "cuda")
    output = attend(states, boundaries, 0.3)
    start, end = sum(LENGTHS[:4]), sum(LENGTHS[:5])
    for gradient in torch.autograd.grad(output[:, start:end].square().sum(), states):
        own = gradient[:, :, start:end]
        assert own.abs().max() > 0
        assert gradient.count_nonzero() == own.count_nonzero()


@pytest.mark.parametrize("perturbed", [0, 1, 3])
def test_changing_a_sequence_changes_no_bit_of_another(perturbed):
    """Other tokens in one sequence; the log-probs and entropies of the others stay bit for bit."""
    policy = tiny_policy()
    sequences = random_sequences(4, seed=5, longest=40)
    changed = list(sequences)
    tokens = [(token + 17) % 280 for token in sequences[perturbed].token_ids]
    changed[perturbed] = replace(sequences[perturbed], token_ids=tokens)
    ends = torch.tensor([s.num_trained for s in sequences]).cumsum(0).tolist()
    for before, after in zip(
        policy.logprobs(pack(sequences, CPU)), policy.logprobs(pack(changed, CPU)), strict=True
    ):
        for index, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            assert torch.equal(before[start:end], after[start:end]) == (index != perturbed)


def test_a_cpu_never_takes_the_gpu_path():
    states, boundaries, _ = random_heads([9, 33], dtype=torch.bfloat16)
    assert not runs_varlen(states[0])
    assert attend(states, boundaries, 0.3).isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_size", [64, 128])
@pytest.mark.parametrize("window", [None, 40])
def test_flash_attention_is_as_exact_as_the_buckets(dtype, head_size, window, monkeypatch):
    """Outputs and gradients against float64, and nothing from other sequences."""
    lengths = [*LENGTHS, 1000, 513]
    states, boundaries, upstream = random_heads(
        lengths, dtype=dtype, device="cuda", head_size=head_size
    )
    query, key, value = (state.detach().double().requires_grad_() for state in states)
    exact = query, key, value
    wanted = [plain_attention(exact, lengths, 0.1, sliding_window=window)]
    wanted += torch.autograd.grad(wanted[0], exact, upstream.double())
    assert runs_varlen(states[0][0].transpose(0, 1))
    errors = []
    for path in ("varlen", "buckets"):
        if path == "buckets":
            monkeypatch.setattr(attention, "runs_varlen", lambda query: False)
        found = [attend(states, boundaries, 0.1, sliding_window=window)]
        found += torch.autograd.grad(found[0], states, upstream)
        errors.append(
            [
                ((f.double() - w).norm() / w.norm()).item()
                for f, w in zip(found, wanted, strict=True)
            ]
        )
    for varlen, buckets in zip(*errors, strict=True):
        assert varlen < 1.5 * buckets + 1e-4

"""Checksums of weights: each change that matters is named, and a copy's rounding is not one."""

import pytest
import torch

from vibelite.rollout.fingerprint import NUM_SAMPLES, difference, fingerprint


def weights(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"up": (40, 90), "down": (40, 90), "norm": (7,), "one": (1,)}
    return {
        name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_equal_weights_have_equal_checksums_and_every_sampled_number_counts(dtype):
    tensors = weights(dtype=dtype)
    before = fingerprint(tensors)
    assert fingerprint({name: tensor.clone() for name, tensor in tensors.items()}) == before
    for name, tensor in tensors.items():
        flat = tensor.view(-1)
        step = max(1, len(flat) // NUM_SAMPLES)
        for place in (0, step * min(len(flat) // step - 1, NUM_SAMPLES - 1)):
            kept = flat[place].clone()
            flat[place] = torch.nextafter(kept, kept + 1) if dtype != torch.bfloat16 else -kept
            changed = fingerprint(tensors)
            flat[place] = kept
            assert {key for key in before if before[key] != changed[key]} == {name}


def test_an_exchange_of_two_numbers_within_a_tensor_shows():
    tensors = weights()
    before = fingerprint(tensors)
    tensors["norm"][[0, 1]] = tensors["norm"][[1, 0]]
    assert fingerprint(tensors)["norm"] != before["norm"]


def test_the_dtype_of_the_other_side_is_rounded_to_first():
    trainer = weights()
    engine = {name: tensor.bfloat16() for name, tensor in trainer.items()}
    dtypes = {name: tensor.dtype for name, tensor in engine.items()}
    assert fingerprint(trainer, dtypes) == fingerprint(engine)
    assert fingerprint(trainer) != fingerprint(engine)


def test_views_of_a_larger_tensor_count_as_what_they_show():
    whole = torch.randn(10, 30)
    parts = {"a": whole[2:5], "b": whole[5:9].t()}
    assert fingerprint(parts) == fingerprint({name: part.clone() for name, part in parts.items()})


def test_what_differs_is_named():
    initial, now = fingerprint(weights(0)), fingerprint(weights(1))
    assert difference(now, now) is None
    told = "the engine's weights are not the trainer's"
    assert difference(initial, now) == f"{told} (up and 3 more)"
    assert difference(now | {"norm": initial["norm"]}, now) == f"{told} (norm)"
    exchanged = now | {"up": now["down"], "down": now["up"]}
    assert difference(exchanged, now) == f"{told} (up and 1 more)"
    missing = {name: value for name, value in now.items() if name != "one"}
    assert difference(missing, now) == f"{told} (one)"

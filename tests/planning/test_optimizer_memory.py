"""Bytes per parameter against the tensors that an optimizer holds."""

from typing import get_args

import pytest
import torch

from tests.policies import tiny_policy
from tests.training.gradients import set_gradients
from vibelite.planning.memory_model import (
    HOST_BUFFER_BYTES,
    UPDATE_BUFFER_BYTES,
    bytes_per_parameter,
)
from vibelite.planning.model_shape import BYTES
from vibelite.recipe.model_section import Training
from vibelite.recipe.stage_section import Optimizer
from vibelite.training.clip import BUCKET_ELEMENTS
from vibelite.training.optim import PolicyOptimizer
from vibelite.training.pinned_copies import BUFFER_BYTES, NUM_BUFFERS


def tensors_in(value) -> list[torch.Tensor]:
    """Every tensor of more than one entry in nested lists and mappings."""
    if isinstance(value, torch.Tensor):
        return [value] if value.numel() > 1 else []
    children = value.values() if isinstance(value, dict) else value
    return [t for child in children if isinstance(child, dict | list | torch.Tensor)
            for t in tensors_in(child)]  # fmt: skip


@pytest.mark.parametrize("gradient_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["adamw", "adamw_cpu"])
def test_the_prediction_is_what_the_optimizer_holds(kind, dtype, gradient_dtype):
    policy = tiny_policy()
    policy.model.to(getattr(torch, dtype))
    training = Training(dtype=dtype, gradient_dtype=gradient_dtype)
    optimizer = PolicyOptimizer(
        policy, Optimizer(kind=kind, lr=1e-3), num_steps=9, training=training
    )
    set_gradients(policy, 0)
    optimizer.step(0)
    set_gradients(policy, 1)
    parameters = list(policy.trainable_parameters())
    num_parameters = sum(parameter.numel() for parameter in parameters)

    def per_parameter(tensors):
        return sum(tensor.nbytes for tensor in tensors) / num_parameters

    state = optimizer.state_dict()
    masters, moments = tensors_in(state["masters"]), tensors_in(state["state"])
    gradients = optimizer._update.gradients()
    predicted = bytes_per_parameter(kind, dtype, gradient_dtype)
    assert per_parameter(parameters) == predicted.weights
    if kind == "adamw":
        assert per_parameter(gradients) == predicted.gradients
        assert per_parameter(masters) == predicted.masters
        assert per_parameter(moments) == predicted.moments
    else:
        shared = 4 if dtype == "float32" else 0  # on a CPU float32 weights are their masters
        held = per_parameter([*gradients, *masters, *moments])
        assert held + shared == predicted.host
        assert predicted.device == predicted.weights


def test_muon_holds_one_momentum():
    matrix = torch.nn.Parameter(torch.randn(16, 8))
    matrix.grad = torch.randn(16, 8)
    optimizer = torch.optim.Muon([matrix], lr=1e-3)
    optimizer.step()
    moments = tensors_in(optimizer.state_dict())
    predicted = bytes_per_parameter("muon", "float32", "float32")
    assert sum(tensor.nbytes for tensor in moments) / matrix.numel() == predicted.moments


def test_8_bit_moments_are_two_bytes_and_their_scales():
    optim = pytest.importorskip("bitsandbytes.optim")
    weights = torch.nn.Parameter(torch.randn(1 << 14))
    weights.grad = torch.randn(1 << 14)
    optimizer = optim.AdamW8bit([weights])
    optimizer.step()
    state = optimizer.state[weights]
    names = ("state1", "state2", "absmax1", "absmax2")
    predicted = bytes_per_parameter("adamw_8bit", "float32", "float32")
    assert sum(state[name].nbytes for name in names) / weights.numel() == predicted.moments


def test_the_constants_are_those_of_the_code():
    assert 4 * BUCKET_ELEMENTS == UPDATE_BUFFER_BYTES
    assert NUM_BUFFERS * BUFFER_BYTES == HOST_BUFFER_BYTES


def test_every_kind_and_type_of_the_recipe_is_known():
    kinds = get_args(Optimizer.model_fields["kind"].annotation)
    device = {kind: bytes_per_parameter(kind, "bfloat16", "bfloat16").device for kind in kinds}
    # bfloat16 weights and gradients; float32 masters; moments, of which the paged ones may leave.
    assert device == {
        "adamw": 16, "muon": 12, "adamw_8bit": 8 + 2 * (1 + 4 / 256), "adamw_8bit_paged": 8,
        "adamw_cpu": 2,
    }  # fmt: skip
    for field in ("dtype", "gradient_dtype"):
        assert set(get_args(Training.model_fields[field].annotation)) <= BYTES.keys()

"""Other weights in a policy: what is taken is what loading the other model gives, bit for bit."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.test_adapter import randomise
from tests.policies import tiny_policy
from vibelite.errors import CheckpointError
from vibelite.models.adapter import save_adapter
from vibelite.models.exchange import can_take, take_weights
from vibelite.models.load import attach, load_policy
from vibelite.models.policy import Policy
from vibelite.recipe.model_section import Adapter
from vibelite.storage import seal_directory


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Two models that differ in their weights, and an adapter on the second."""
    for seed, name in enumerate(("first", "second")):
        tiny_policy(seed).save(tmp_path / name)
    second = tmp_path / "second"
    policy = attach(load_policy(second), Adapter(kind="lora", rank=2), start=second, seed=1)
    randomise(policy, 3)
    (tmp_path / "adapted").mkdir()
    save_adapter(policy, tmp_path / "adapted")
    return tmp_path


def bits(policy: Policy) -> dict[str, list[int]]:
    named = policy.model.named_parameters()
    return {name: tensor.detach().view(torch.int32).tolist() for name, tensor in named}


@pytest.mark.parametrize("name", ["second", "adapted"])
def test_a_policy_takes_the_weights_of_another_model_in_place(models: Path, name: str) -> None:
    policy = load_policy(models / "first")
    places = [parameter.data_ptr() for parameter in policy.model.parameters()]
    assert can_take(policy, models / "first", models / name)
    assert bits(policy) != bits(load_policy(models / name))
    take_weights(policy, models / name)
    assert bits(policy) == bits(load_policy(models / name))
    assert [parameter.data_ptr() for parameter in policy.model.parameters()] == places


@pytest.mark.parametrize("change", ["rope", "template", "end", "type", "size"])
def test_a_model_that_differs_in_more_than_weights_is_not_taken(models: Path, change: str) -> None:
    policy, other = load_policy(models / "first"), models / "other"
    shutil.copytree(models / "second", other)
    config = json.loads((other / "config.json").read_text())
    match change:
        case "rope":
            config["rope_parameters"]["rope_theta"] *= 2
        case "template":
            (other / "chat_template.jinja").write_text("another")
        case "end":
            (other / "generation_config.json").write_text('{"eos_token_id": 7}')
        case "type":
            load_policy(models / "second", dtype="bfloat16").save(other)
            config = json.loads((other / "config.json").read_text())
        case "size":
            tiny_policy(mlp_size=32).save(other)
            config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config))
    assert not can_take(policy, models / "first", other)


def test_damaged_or_broken_weights_are_refused(models: Path) -> None:
    policy, path = load_policy(models / "first"), models / "second" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is not finite"):
        take_weights(policy, models / "second")
    seal_directory(models / "second", {})
    with open(path, "r+b") as file:
        file.seek(-1, 2)
        file.write(b"!")
    with pytest.raises(CheckpointError, match="is damaged"):
        take_weights(policy, models / "second")

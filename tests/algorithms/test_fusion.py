"""Fusion against a plain mean, and the files it must carry along."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from vibelite.algorithms.fusion import INDEX_NAME, fuse_models, weighted_mean
from vibelite.errors import RecipeError


def write_model(directory, tensors):
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text("{}")
    return directory


def random_tensors(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {
        "layer.weight": torch.randn(17, 5, generator=generator).to(dtype),
        "norm": torch.randn(5, generator=generator).to(dtype),
        "steps": torch.tensor([7]),
    }


def test_uniform_fusion_is_the_mean(tmp_path):
    models = [random_tensors(seed) for seed in range(4)]
    directories = [write_model(tmp_path / str(index), model) for index, model in enumerate(models)]
    fuse_models(directories, [1, 1, 1, 1], tmp_path / "out")
    fused = load_file(tmp_path / "out" / "model.safetensors")
    for name in ("layer.weight", "norm"):
        mean = torch.stack([model[name].double() for model in models]).mean(dim=0)
        torch.testing.assert_close(fused[name].double(), mean, rtol=0, atol=2e-7)
    assert fused["steps"].tolist() == [7]
    assert (tmp_path / "out" / "config.json").exists()


def test_weights_are_normalised(tmp_path):
    first = write_model(tmp_path / "a", {"w": torch.tensor([1.0])})
    second = write_model(tmp_path / "b", {"w": torch.tensor([5.0])})
    fuse_models([first, second], [3, 1], tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors")["w"].tolist() == [2.0]


def test_bfloat16_is_averaged_in_float32_and_rounded_once():
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(1000, generator=generator).bfloat16() for _ in range(3)]
    weights = [0.5, 0.3, 0.2]
    fused = weighted_mean(tensors, weights)
    exact = torch.zeros(1000, dtype=torch.float64)
    for weight, tensor in zip(weights, tensors, strict=True):
        exact += weight * tensor.double()
    half_a_unit = torch.ldexp(torch.ones(1000), torch.frexp(exact).exponent - 9)  # of 8 bits
    assert fused.dtype == torch.bfloat16
    assert ((fused.double() - exact).abs() <= 1.0001 * half_a_unit).all()


def test_fusing_a_model_with_itself_changes_nothing(tmp_path):
    directory = write_model(tmp_path / "a", random_tensors(0))
    fuse_models([directory, directory], [0.5, 0.5], tmp_path / "out")
    fused, original = load_file(tmp_path / "out" / "model.safetensors"), random_tensors(0)
    assert all(torch.equal(fused[name], original[name]) for name in original)


def test_sharded_and_single_file_models_fuse(tmp_path):
    single = write_model(tmp_path / "single", {"a": torch.tensor([1.0]), "b": torch.tensor([2.0])})
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    save_file({"a": torch.tensor([3.0])}, sharded / "one.safetensors")
    save_file({"b": torch.tensor([4.0])}, sharded / "two.safetensors")
    weight_map = {"a": "one.safetensors", "b": "two.safetensors"}
    (sharded / INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}))
    fuse_models([sharded, single], [1, 1], tmp_path / "out")
    assert load_file(tmp_path / "out" / "one.safetensors")["a"].tolist() == [2.0]
    assert load_file(tmp_path / "out" / "two.safetensors")["b"].tolist() == [3.0]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"x": torch.ones(2)}, "w has shape None"),
        ({"w": torch.ones(3)}, "has shape"),
        ({"w": torch.tensor([1, 2])}, "non-float"),
    ],
)
def test_models_that_do_not_belong_together_are_refused(tmp_path, other, message):
    base = (
        torch.tensor([3, 4])
        if other.get("w", torch.ones(1)).dtype == torch.int64
        else torch.ones(2)
    )
    first = write_model(tmp_path / "a", {"w": base})
    second = write_model(tmp_path / "b", other)
    with pytest.raises(RecipeError, match=message):
        fuse_models([first, second], [1, 1], tmp_path / "out")


def test_an_adapter_directory_is_refused(tmp_path):
    (tmp_path / "adapter").mkdir()
    with pytest.raises(RecipeError, match="merge an adapter into its model"):
        fuse_models([tmp_path / "adapter"], [1], tmp_path / "out")


def test_a_mean_that_is_not_finite_is_refused_with_the_model_that_is_not(tmp_path):
    first = write_model(tmp_path / "a", {"w": torch.tensor([1.0, 2.0])})
    second = write_model(tmp_path / "b", {"w": torch.tensor([1.0, float("nan")])})
    with pytest.raises(RecipeError, match=r"the mean of w is not finite \(nor is it in .*/b\)"):
        fuse_models([first, second], [1, 1], tmp_path / "mean")
    assert not (tmp_path / "mean" / "model.safetensors").exists()


@pytest.mark.parametrize("weights", [[0, 0], [-1, 2], [1]])
def test_impossible_weights_are_refused(tmp_path, weights):
    with pytest.raises(ValueError, match="weights"):
        fuse_models([tmp_path / "a", tmp_path / "b"], weights, tmp_path / "out")

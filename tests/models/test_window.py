"""A model with more positions, and stages that ask for more than there are."""

from pathlib import Path

import pytest
import torch

from vibelite.errors import RecipeError
from vibelite.models.load import load_policy, write_base_model
from vibelite.models.tiny import build_model, build_tokenizer
from vibelite.recipe.model_section import PretrainedModel, TinyModel
from vibelite.recipe.schema import Recipe
from vibelite.stages.window import require_window

TOKENS = torch.arange(20)[None]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published")
    tokenizer = build_tokenizer(["1 2 3"], 300)
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "mlp_size": 16, "vocab_size": 300}
    config = TinyModel.model_validate({"source": "tiny", "max_position": 32, **sizes})
    build_model(config, tokenizer, seed=0).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def widened(published: Path, target: Path, **values: float) -> PretrainedModel:
    model = PretrainedModel.model_validate(
        {"source": "pretrained", "path": str(published), **values}
    )
    arguments = {"recipe_dir": target.parent, "texts": [], "seed": 0, "dtype": "float32"}
    write_base_model(model, target, **arguments)
    return model


@torch.no_grad()
def logits(path: Path) -> torch.Tensor:
    return load_policy(path).model(TOKENS).logits


def test_the_copy_has_the_positions_and_the_base_of_the_recipe(
    published: Path, tmp_path: Path
) -> None:
    widened(published, tmp_path / "wide", max_position=64, rope_theta=1e6)
    config = load_policy(tmp_path / "wide").model.config
    assert config.max_position_embeddings == 64
    assert config.rope_parameters["rope_theta"] == 1e6
    # The weights are the same ones, turned by other angles.
    assert not torch.allclose(logits(tmp_path / "wide"), logits(published))
    widened(published, tmp_path / "back", rope_theta=10_000.0)
    assert torch.equal(logits(tmp_path / "back"), logits(published))


def recipe(model: PretrainedModel, **stage: object) -> Recipe:
    values = {"name": "window", "model": model.model_dump(), "data": {}, "stages": [stage]}
    return Recipe.model_validate(values)


def test_a_stage_beyond_the_models_positions_is_refused(published: Path, tmp_path: Path) -> None:
    model = widened(published, tmp_path / "same")
    export = {"kind": "export", "start_from": "base"}
    probe = {"kind": "probe", "num_samples": 1, "k": 1}
    sft = {"kind": "sft", "num_steps": 1, "checkpoint_every": 1, "optimizer": {"lr": 1.0}}
    require_window(recipe(model, **export), tmp_path / "same")
    require_window(recipe(model, **probe, sampling={"max_new_tokens": 31}), tmp_path / "same")
    require_window(recipe(model, **sft, max_tokens=32), tmp_path / "same")
    with pytest.raises(RecipeError, match=r"stages.probe.sampling.max_new_tokens \(32\): .* 32 "):
        require_window(recipe(model, **probe, sampling={"max_new_tokens": 32}), tmp_path / "same")
    with pytest.raises(RecipeError, match=r"stages.sft.max_tokens \(33\).*model.max_position"):
        require_window(recipe(model, **sft, max_tokens=33), tmp_path / "same")

"""Files that are not the model they claim to be are refused by the names of what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.families import random_model
from tests.policies import tiny_policy
from vibelite.errors import RecipeError
from vibelite.models.load import load_for_training, load_policy
from vibelite.recipe.schema import Recipe

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda weight: None, "missing in its files"),
        (lambda weight: weight[1:].clone(), "of another shape there"),
        (lambda weight: weight.index_fill(0, torch.tensor(3), torch.nan), "not finite"),
        (lambda weight: weight.index_fill(0, torch.tensor(3), torch.inf), "not finite"),
    ],
)
def test_broken_tensors_are_named(tmp_path: Path, change: Callable, what: str) -> None:
    tiny_policy().save(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    changed = change(tensors.pop(UP))
    save_file(tensors | ({} if changed is None else {UP: changed}), path, {"format": "pt"})
    with pytest.raises(RecipeError, match=f"{tmp_path}: 1 tensors are {what}: {UP};"):
        load_policy(tmp_path)


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused(tmp_path: Path) -> None:
    policy = tiny_policy()
    rows = len(policy.tokenizer)
    policy.tokenizer.add_tokens(["<think>", "</think>"])
    policy.save(tmp_path)
    with pytest.raises(RecipeError, match=f"ids up to {rows + 1}, the embedding {rows} rows"):
        load_policy(tmp_path)
    policy.model.resize_token_embeddings(len(policy.tokenizer))
    policy.save(tmp_path)
    assert load_policy(tmp_path).head.weight.shape[0] == rows + 2


@pytest.mark.parametrize("has_map", [False, True])
def test_a_tokenizer_without_padding_gets_none_of_its_class(tmp_path: Path, has_map: bool) -> None:
    """Qwen2's would be <|endoftext|>, a token more than the model has embeddings."""
    policy = tiny_policy()
    policy.save(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    padding = settings.pop("pad_token")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    if has_map:
        (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": padding}))
    loaded = load_policy(tmp_path).tokenizer
    assert loaded.get_vocab() == policy.tokenizer.get_vocab()
    assert loaded.pad_token == (padding if has_map else None)


def test_a_model_that_is_trained_one_sequence_at_a_time_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = [{"kind": "export", "start_from": "base"}]
    model = {"source": "pretrained", "path": str(tmp_path)}
    values = {"name": "load", "model": model, "data": {}, "stages": stages}
    for family, expected in (("Lfm2", 1), ("Qwen2", 0)):
        random_model(family).save_pretrained(tmp_path / family)
        tiny_policy().tokenizer.save_pretrained(tmp_path / family)
        load_for_training(tmp_path / family, Recipe.model_validate(values), seed=0)
        said = capsys.readouterr().err
        assert said.count("so it is trained one sequence at a time\n") == expected


def test_a_model_whose_attention_cannot_be_replaced_is_refused(tmp_path: Path) -> None:
    from transformers import FalconConfig, FalconForCausalLM

    config = FalconConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    FalconForCausalLM(config).save_pretrained(tmp_path)
    tiny_policy().tokenizer.save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="its attention cannot be replaced"):
        load_policy(tmp_path)

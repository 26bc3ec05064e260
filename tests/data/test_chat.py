"""Prompts and traces as token ids."""

import pytest

from vibelite.data.chat import end_token_id, prompt_ids, trace_ids
from vibelite.errors import DataError
from vibelite.models.tiny import build_tokenizer

CONVERSATION = [
    {"role": "user", "content": "Solve 3x + 5 = 20."},
    {"role": "assistant", "content": "20-5=15\n15/3=5\n\\boxed{5}"},
]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer([message["content"] for message in CONVERSATION] * 3, 300)


def test_a_trace_begins_with_its_prompt_and_trains_on_the_answer_and_its_end(tokenizer):
    ids, num_prompt_tokens = trace_ids(tokenizer, CONVERSATION)
    prompt = prompt_ids(tokenizer, CONVERSATION[:-1])
    assert ids[: len(prompt)] == prompt
    assert num_prompt_tokens == len(prompt)
    assert tokenizer.decode(ids[num_prompt_tokens:]) == CONVERSATION[-1]["content"] + "<|end|>"


def test_a_trace_is_what_the_template_renders(tokenizer):
    rendered = tokenizer.apply_chat_template(CONVERSATION, tokenize=False)
    assert tokenizer.decode(trace_ids(tokenizer, CONVERSATION)[0]) == rendered


def test_only_the_last_of_several_answers_is_trained(tokenizer):
    messages = [*CONVERSATION, {"role": "user", "content": "Sure?"}, CONVERSATION[-1]]
    ids, num_prompt_tokens = trace_ids(tokenizer, messages)
    first_ids, first_prompt = trace_ids(tokenizer, CONVERSATION)
    assert ids[num_prompt_tokens:] == first_ids[first_prompt:]


def test_the_system_prompt_is_put_first_unless_there_is_one(tokenizer):
    text = tokenizer.decode(prompt_ids(tokenizer, CONVERSATION[:1], "Be brief."))
    assert text == "<|system|>Be brief.<|end|><|user|>Solve 3x + 5 = 20.<|end|><|assistant|>"
    own = [{"role": "system", "content": "Think."}, *CONVERSATION[:1]]
    assert prompt_ids(tokenizer, own, "Be brief.") == prompt_ids(tokenizer, own)


def test_the_end_token_is_the_template_s_even_where_eos_is_another(tokenizer):
    other = build_tokenizer(["a"], 270)
    other.chat_template = "{% for m in messages %}{{ m['content'] + '<|pad|>\\n' }}{% endfor %}"
    assert end_token_id(tokenizer) == tokenizer.eos_token_id
    assert end_token_id(other) == other.convert_tokens_to_ids("<|pad|>") != other.eos_token_id
    other.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert end_token_id(other) == other.eos_token_id


def test_a_trace_without_an_answer_is_refused(tokenizer):
    with pytest.raises(DataError, match="not of 'user'"):
        trace_ids(tokenizer, CONVERSATION[:1])
    with pytest.raises(DataError, match="not of 'nobody'"):
        trace_ids(tokenizer, [])


def test_a_tokenizer_without_template_is_refused():
    bare = build_tokenizer(["a"], 270)
    bare.chat_template = None
    with pytest.raises(DataError, match="no chat template"):
        prompt_ids(bare, CONVERSATION[:1])

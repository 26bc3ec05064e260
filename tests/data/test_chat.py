"""Prompts and traces as token ids."""

from types import SimpleNamespace

import pytest

from vibelite.data.chat import end_token_id, opened_thinking, prompt_ids, stop_token_ids, trace_ids
from vibelite.errors import DataError
from vibelite.models.tiny import build_tokenizer
from vibelite.recipe.data_section import Data

CONVERSATION = [
    {"role": "user", "content": "Solve 3x + 5 = 20."},
    {"role": "assistant", "content": "20-5=15\n15/3=5\n\\boxed{5}"},
]
ASKED = CONVERSATION[:1]
BRIEF = Data(system_prompt="Be brief.")


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
    text = tokenizer.decode(prompt_ids(tokenizer, CONVERSATION[:1], BRIEF))
    assert text == "<|system|>Be brief.<|end|><|user|>Solve 3x + 5 = 20.<|end|><|assistant|>"
    own = [{"role": "system", "content": "Think."}, *CONVERSATION[:1]]
    assert prompt_ids(tokenizer, own, BRIEF) == prompt_ids(tokenizer, own)


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


THINKING = "<think>\n7 + 5 is 12.\n</think>\n\nSo \\boxed{12}."


def opening(tokenizer, opened, monkeypatch):
    """The tokenizer with a generation prompt that writes `opened`."""
    written, template = "'<|assistant|>' }}{% endif", tokenizer.chat_template
    assert written in template
    monkeypatch.setattr(tokenizer, "chat_template", template.replace(written, opened))
    return tokenizer


@pytest.mark.parametrize(
    ("opened", "answer", "sequence"),
    [
        ("<think>\\n", THINKING, THINKING),
        ("<think>", THINKING, THINKING),
        ("<think>\\n", THINKING.removeprefix("<think>\n"), THINKING),
        ("<think>\\n", "\n" + THINKING, THINKING),
        ("<think>\\n\\n</think>\\n\\n", "It is 12.", "<think>\n\n</think>\n\nIt is 12."),
        (
            "<think>\\n\\n</think>\\n\\n",
            "<think>\n</think>\nIt is 12.",
            "<think>\n\n</think>\n\nIt is 12.",
        ),
        ("", THINKING, THINKING),
    ],
)
def test_what_the_generation_prompt_wrote_is_not_written_again(
    tokenizer, monkeypatch, opened, answer, sequence
):
    opening(tokenizer, f"'<|assistant|>{opened}' }}}}{{% endif", monkeypatch)
    ids, num_prompt_tokens = trace_ids(tokenizer, [*ASKED, {**CONVERSATION[1], "content": answer}])
    assert tokenizer.decode(ids).partition("<|assistant|>")[2] == f"{sequence}<|end|>"
    assert ids[:num_prompt_tokens] == prompt_ids(tokenizer, ASKED)


@pytest.mark.parametrize(
    ("opened", "answer", "problem"),
    [
        ("<think>\\n", "It is 12.", "opens a thinking, and the answer never closes it"),
        ("<think>\\n\\n</think>\\n\\n", THINKING, "leaves the thinking empty, .*'7 . 5 is 12.'"),
    ],
)
def test_an_answer_that_cannot_go_on_from_the_prompt_is_refused(
    tokenizer, monkeypatch, opened, answer, problem
):
    opening(tokenizer, f"'<|assistant|>{opened}' }}}}{{% endif", monkeypatch)
    conversation = [*ASKED, {"role": "assistant", "content": answer}]
    with pytest.raises(DataError, match=f"^rows/3: .*{problem}.*chat_template_kwargs"):
        trace_ids(tokenizer, conversation, row="rows/3")


@pytest.mark.parametrize(
    ("opened", "thinking"),
    [("<think>\\n", "<think>\n"), ("<think>", "<think>"), ("<think></think>\\n", ""), ("", "")],
)
def test_a_thinking_that_the_prompt_opens_is_seen_at_its_end(
    tokenizer, monkeypatch, opened, thinking
):
    opening(tokenizer, f"'<|assistant|>{opened}' }}}}{{% endif", monkeypatch)
    asked = [{"role": "user", "content": "Is this a thinking: <think>"}]
    assert opened_thinking(tokenizer, prompt_ids(tokenizer, asked)) == thinking


def test_the_template_is_told_what_the_recipe_says(tokenizer, monkeypatch):
    opened = "('<|assistant|>' if quick else '<|assistant|><think>') }}{% endif"
    opening(tokenizer, opened, monkeypatch)
    texts = [
        tokenizer.decode(prompt_ids(tokenizer, ASKED, Data(chat_template_kwargs=told)))
        for told in ({}, {"quick": True})
    ]
    assert [text.endswith("<think>") for text in texts] == [True, False]
    taken = Data(chat_template_kwargs={"tokenize": True})
    with pytest.raises(
        DataError, match="^rows/7: .*multiple values for keyword argument 'tokenize'"
    ):
        prompt_ids(tokenizer, ASKED, taken, row="rows/7")


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{ raise_exception('No system here, please') }}", "user: No system here, please"),
        ("{% for m in messages %}\n{{ m.x }\n{% endfor %}", r"unexpected '}'.*\(line 2 of"),
        ("{{ messages[3]['content'] }}", "has no element 3"),
    ],
)
def test_a_template_that_refuses_is_quoted_with_the_row(tokenizer, monkeypatch, template, problem):
    monkeypatch.setattr(tokenizer, "chat_template", template)
    monkeypatch.setattr(tokenizer, "name_or_path", "models/mine")
    with pytest.raises(DataError, match=f"^rows/7: the chat template of models/mine .*{problem}"):
        prompt_ids(tokenizer, ASKED, row="rows/7")


def test_every_end_is_named_once_and_the_templates_comes_first(tokenizer):
    end = tokenizer.eos_token_id
    several, one, none = (SimpleNamespace(eos_token_id=ids) for ids in ([9, end], 5, None))
    assert stop_token_ids(tokenizer, several, one, none, several) == (end, 9, 5)
    assert stop_token_ids(tokenizer) == (end,)

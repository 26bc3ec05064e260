"""Chat messages to token ids, for prompts and for worked solutions, and the tokens that end them.

A completion is encoded apart from its prompt, exactly as an engine sees it: `trace_ids` always
begins with the `prompt_ids` of the same conversation, and ends with the token at which an engine
has to stop.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vibelite.errors import DataError
from vibelite.recipe.data_section import Data
from vibelite.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = Data()
CLOSED = "</think>"
# At the end of a prompt: a thinking that the generation prompt opens, or leaves empty.
_WRITTEN = re.compile(r"<think>\s*(</think>\s*)?\Z")
# Enough of a prompt's last tokens to hold that, even where a character is a token.
OPENING_TOKENS = 40


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    chat: Data = PLAIN,
    *,
    row: str = "",
) -> list[int]:
    """Token ids of the conversation up to where the answer begins. Raises DataError, which names
    the `row`, where there is no chat template or it refuses the messages.
    """
    text = _prompt_text(tokenizer, messages, chat, row)
    return tokenizer.encode(text, add_special_tokens=False)


def trace_ids(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    chat: Data = PLAIN,
    *,
    row: str = "",
) -> tuple[list[int], int]:
    """Token ids [T] of a conversation with its answer and end token, and how many come before
    these, which are trained on. What a template writes after the end is left out: no engine
    generates it.

        trace_ids(t, messages)        [user 7 + 5 assistant 1 2 end], 5
    """
    if not messages or messages[-1]["role"] != "assistant":
        role = messages[-1]["role"] if messages else "nobody"
        raise DataError(f"a trace must end with a message of the assistant, not of {role!r}")
    text = _prompt_text(tokenizer, messages[:-1], chat, row)
    prompt = tokenizer.encode(text, add_special_tokens=False)
    answer = _unwritten(messages[-1]["content"], text, row)
    completion = tokenizer.encode(answer, add_special_tokens=False)
    completion.append(end_token_id(tokenizer))
    return prompt + completion, len(prompt)


def opened_thinking(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> str:
    """The "<think>" with its blanks that the end of a prompt opens, or ""."""
    written = _WRITTEN.search(str(tokenizer.decode(list(prompt[-OPENING_TOKENS:]))))
    return written[0] if written and not written[1] else ""


def _unwritten(content: str, prompt: str, row: str) -> str:
    """The answer without what the prompt wrote of it; DataError where it does not go on there."""
    written = _WRITTEN.search(prompt)
    if written is None:
        return content
    thinking, closed, answer = content.partition(CLOSED)
    inner = thinking.lstrip().removeprefix("<think>")
    if written[1]:
        if not closed:
            return content
        if not inner.strip():
            return answer.lstrip()
        problem = f"leaves the thinking empty, and the answer has one ({inner.strip()[:40]!r})"
    else:
        if closed:
            return f"{inner.lstrip() if written[0][-1].isspace() else inner}{closed}{answer}"
        problem = f"opens a thinking, and the answer never closes it with {CLOSED}"
    raise DataError(
        f"{row or 'a trace'}: the generation prompt of the chat template {problem}; set "
        "data.chat_template_kwargs (often enable_thinking) as the traces were made, or change them"
    )


def stop_token_ids(tokenizer: PreTrainedTokenizerBase, *configs: Any) -> tuple[int, ...]:
    """Every token at which a message ends: by template, `configs` and tokenizer."""
    ends = [end_token_id(tokenizer)]
    for holder in (*configs, tokenizer):
        named = getattr(holder, "eos_token_id", None)
        ends += named if isinstance(named, list | tuple) else [named]
    return tuple(end for end in dict.fromkeys(ends) if isinstance(end, int))


def end_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends an answer, and that traces are trained to write: the first special one
    after it in the chat template, else `eos_token` (base models of Qwen2.5 end only documents with
    that).
    """
    content = "ok"
    conversation = [{"role": "user", "content": ""}, {"role": "assistant", "content": content}]
    text = _render(tokenizer, conversation, False, PLAIN, "a question with an answer")
    ending = tokenizer.encode(text[text.rindex(content) + len(content) :], add_special_tokens=False)
    added = tokenizer.added_tokens_decoder.items()
    special = {
        *tokenizer.all_special_ids,
        *(token_id for token_id, token in added if token.special),
    }
    for token_id in ending:
        if token_id in special:
            return token_id
    if isinstance(tokenizer.eos_token_id, int):
        return tokenizer.eos_token_id
    raise DataError(f"{_name(tokenizer)}: neither the chat template nor eos_token ends a message")


def _prompt_text(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], chat: Data, row: str
) -> str:
    messages = list(messages)
    if chat.system_prompt and not (messages and messages[0]["role"] == "system"):
        messages.insert(0, {"role": "system", "content": chat.system_prompt})
    return _render(tokenizer, messages, True, chat, row)


def _render(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[Message],
    add_generation_prompt: bool,
    chat: Data,
    row: str,
) -> str:
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise DataError(
            f"{_name(tokenizer)} has no chat template; "
            "use an instruct model, or add chat_template.jinja to its directory"
        )
    try:
        text = tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **chat.chat_template_kwargs,
        )
    except (TemplateError, TypeError) as error:
        line = getattr(error, "lineno", None)
        at = f" (line {line} of the template)" if line else ""
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(
            f"{row or 'a conversation'}: the chat template of {_name(tokenizer)} refuses messages "
            f"of {roles}: {error}{at}"
        ) from error
    assert isinstance(text, str)
    return text


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return tokenizer.name_or_path or "the tokenizer"

"""Chat messages to token ids, for prompts and for worked solutions.

A completion is encoded apart from its prompt, exactly as an engine sees it: `trace_ids` always
begins with the `prompt_ids` of the same conversation, and ends with the token at which an engine
has to stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vibelite.errors import DataError
from vibelite.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], system_prompt: str = ""
) -> list[int]:
    """Token ids of the conversation up to where the assistant's answer begins.

    `system_prompt` goes before the messages, unless it is empty or they bring a system message of
    their own. Raises DataError if the tokenizer has no chat template.
    """
    text = _render(tokenizer, _with_system_prompt(messages, system_prompt), True)
    return tokenizer.encode(text, add_special_tokens=False)


def trace_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], system_prompt: str = ""
) -> tuple[list[int], int]:
    """Token ids [T] of a conversation that ends with an assistant message, and how many come before
    that message: it and its end token are trained on. What a template writes after the end token
    is left out, because no engine ever generates it.

        prompt_ids(t, messages[:-1])  [user 7 + 5 assistant]
        trace_ids(t, messages)        [user 7 + 5 assistant 1 2 end], 5
    """
    if not messages or messages[-1]["role"] != "assistant":
        role = messages[-1]["role"] if messages else "nobody"
        raise DataError(f"a trace must end with a message of the assistant, not of {role!r}")
    prompt = prompt_ids(tokenizer, messages[:-1], system_prompt)
    completion = tokenizer.encode(messages[-1]["content"], add_special_tokens=False)
    completion.append(end_token_id(tokenizer))
    return prompt + completion, len(prompt)


def end_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends an assistant message, and at which an engine stops.

    It is the first special token that the chat template writes after the message; a template that
    writes none leaves `eos_token`. The two do not always agree: base models of the Qwen2.5 family
    end documents with <|endoftext|> and messages with <|im_end|>.
    """
    content = "ok"
    conversation = [{"role": "user", "content": ""}, {"role": "assistant", "content": content}]
    text = _render(tokenizer, conversation, False)
    ending = tokenizer.encode(text[text.rindex(content) + len(content) :], add_special_tokens=False)
    special = set(tokenizer.all_special_ids) | _special_added_ids(tokenizer)
    for token_id in ending:
        if token_id in special:
            return token_id
    if isinstance(tokenizer.eos_token_id, int):
        return tokenizer.eos_token_id
    name = tokenizer.name_or_path or "the tokenizer"
    raise DataError(f"{name}: neither the chat template nor eos_token ends a message")


def _special_added_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    added = tokenizer.added_tokens_decoder
    return {token_id for token_id, token in added.items() if token.special}


def _with_system_prompt(messages: Sequence[Message], system_prompt: str) -> list[Message]:
    if not system_prompt or (messages and messages[0]["role"] == "system"):
        return list(messages)
    return [{"role": "system", "content": system_prompt}, *messages]


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], add_generation_prompt: bool
) -> str:
    if not tokenizer.chat_template:
        raise DataError(
            f"{tokenizer.name_or_path or 'the tokenizer'} has no chat template; "
            "use an instruct model, or add chat_template.jinja to its directory"
        )
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=add_generation_prompt
    )
    assert isinstance(text, str)
    return text

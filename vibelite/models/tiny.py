"""A model small enough to be trained from nothing on a CPU: random Qwen2 weights, own tokenizer.

The tokenizer is byte-level, so it encodes any text, and gives every digit a token of its own, so
that a model of under a million parameters can learn arithmetic.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vibelite.recipe.model_section import TinyModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

PAD, SYSTEM, USER, ASSISTANT, END = SPECIAL_TOKENS = [
    f"<|{name}|>" for name in ("pad", "system", "user", "assistant", "end")
]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-pair tokenizer of at most `vocab_size` tokens trained on `texts`, with a chat template;
    the same texts in the same order give the same one.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    # Cut into words and digits as Qwen2 does: transformers imposes that on every directory with a
    # Qwen2 model in it, whatever its tokenizer.json says, so a cut of our own would be lost.
    qwen2 = Qwen2Tokenizer().backend_tokenizer
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.pre_tokenizer = qwen2.normalizer, qwen2.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    merges: Any = [tuple(pair) for pair in trained["merges"]]  # typed as list[str] by transformers
    return Qwen2Tokenizer(
        vocab=trained["vocab"],
        merges=merges,
        pad_token=PAD,
        eos_token=END,
        unk_token=PAD,  # never produced: every byte has a token
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
    )


def build_model(
    config: TinyModel, tokenizer: PreTrainedTokenizerFast, *, seed: int
) -> Qwen2ForCausalLM:
    """Qwen2 in float32 with tied embeddings and random weights that depend on `seed` alone."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    vocabulary = tokenizer.get_vocab()
    model_config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.mlp_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        max_position_embeddings=config.max_position,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=vocabulary[END],
        pad_token_id=vocabulary[PAD],
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(model_config).float().eval()

"""A Hugging Face directory as one GGUF file, for llama.cpp and what is built on it.

Qwen2 and Llama models with the byte-level tokenizers of Qwen2 and SmolLM2: what the recipes make.
Of other tokenizers llama.cpp must know by name how they cut text, and a wrong name gives wrong
tokens without a word; those are refused, and llama.cpp's own converter is for them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import safe_open

from vibelite.errors import RecipeError
from vibelite.hints import install

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Quantisation = Literal["none", "q8_0"]
ARCHITECTURES = {"qwen2": "QWEN2", "llama": "LLAMA"}
ADVICE = (
    "export with --format hf, and use convert_hf_to_gguf.py of llama.cpp "
    "(https://github.com/ggml-org/llama.cpp) on that directory"
)


def write_gguf(source: Path, target: Path, *, quantisation: Quantisation, end_token: int) -> None:
    """Writes the model in directory `source`, whose messages end with `end_token`, to the file
    `target`; q8_0 = matrices in 8 bits, where their rows are a multiple of 32 long. RecipeError for
    a model that cannot be written.
    """
    try:
        import gguf
    except ImportError as error:
        raise RecipeError(
            f"--format gguf needs the package gguf ({error}); run " + install("gguf>=0.19")
        ) from error
    from transformers import AutoConfig

    from vibelite.models.tokenizer import load_tokenizer

    config = AutoConfig.from_pretrained(source)
    name = require_known_model(config)
    tokenizer = load_tokenizer(source)
    writer = gguf.GGUFWriter(target, name, use_temp_file=True)
    add_sizes(writer, config)
    add_tokenizer(writer, tokenizer, config.vocab_size, end_token, gguf)
    kinds = gguf.GGMLQuantizationType
    known: dict[Any, str] = {torch.bfloat16: "MOSTLY_BF16", torch.float16: "MOSTLY_F16"}
    file_type = "MOSTLY_Q8_0" if quantisation == "q8_0" else known.get(config.dtype, "ALL_F32")
    writer.add_file_type(gguf.LlamaFileType[file_type])
    kind = kinds[file_type.partition("_")[2]]
    arch = getattr(gguf.MODEL_ARCH, ARCHITECTURES[name])
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for key, tensor in tensors_of(source):
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        new_name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if new_name is None:
            raise RecipeError(f"{source}: tensor {key} has no place in a GGUF of {name}; {ADVICE}")
        data = in_llamas_order(key, tensor, config).float().numpy()
        # llama.cpp adds and multiplies vectors in float32.
        chosen = kinds.F32 if data.ndim == 1 else kind
        if chosen == kinds.Q8_0 and data.shape[-1] % gguf.GGML_QUANT_SIZES[chosen][0]:
            chosen = kinds.F16
        writer.add_tensor(new_name, gguf.quants.quantize(data, chosen), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def require_known_model(config: Any) -> str:
    if config.model_type not in ARCHITECTURES:
        known = " and ".join(ARCHITECTURES)
        raise RecipeError(f"a {config.model_type} model: only {known} can be written; {ADVICE}")
    rotary = config.rope_parameters or {}
    if rotary.get("rope_type", "default") != "default":
        raise RecipeError(f"rotary positions of type {rotary['rope_type']}; {ADVICE}")
    return config.model_type


def add_sizes(writer: Any, config: Any) -> None:
    equal = config.hidden_size // config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or equal
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(head_size)
    writer.add_vocab_size(config.vocab_size)


def add_tokenizer(
    writer: Any, tokenizer: PreTrainedTokenizerBase, vocab_size: int, end_token: int, gguf: Any
) -> None:
    """Tokens, merges and the chat template; rows of the embedding without a token are unused."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())  # pyright: ignore
    kinds = gguf.TokenType
    texts = [f"[PAD{index}]" for index in range(vocab_size)]
    types = [kinds.UNUSED] * vocab_size
    added = tokenizer.added_tokens_decoder
    for text, index in tokenizer.get_vocab().items():
        texts[index], types[index] = text, kinds.NORMAL
        if index in added:
            types[index] = kinds.CONTROL if added[index].special else kinds.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cut_of(backend))
    writer.add_token_list(texts)
    writer.add_token_types(types)
    merges = backend["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    # Never put before a prompt; transformers' reader does not do without one.
    bos = tokenizer.bos_token_id
    writer.add_bos_token_id(end_token if bos is None else bos)
    writer.add_eos_token_id(end_token)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def cut_of(backend: dict[str, Any]) -> str:
    """llama.cpp's name for how a tokenizer cuts text into words: by Qwen2's pattern, or into single
    digits and GPT-2's words, as SmolLM2 does. RecipeError for any other.
    """
    from transformers import Qwen2Tokenizer

    cut = backend["pre_tokenizer"]
    if backend["model"]["type"] == "BPE" and cut is not None:
        qwen2 = json.loads(Qwen2Tokenizer().backend_tokenizer.to_str())["pre_tokenizer"]
        if cut == qwen2:
            return "qwen2"
        kinds = [part["type"] for part in cut.get("pretokenizers", [])]
        if kinds == ["Digits", "ByteLevel"] and cut["pretokenizers"][0]["individual_digits"]:
            return "smollm"
    raise RecipeError(f"its tokenizer cuts text in a way that is not known here; {ADVICE}")


def tensors_of(source: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and tensor, one in memory at a time."""
    for path in sorted(source.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a mapping
                yield key, file.get_tensor(key)


def in_llamas_order(key: str, tensor: torch.Tensor, config: Any) -> torch.Tensor:
    """The tensor as llama.cpp rotates it: of Llama queries and keys it pairs neighbouring rows of a
    head, where transformers pairs the halves; of Qwen2 both pair the halves.

        rows of a head of 4: transformers 0 1 2 3 (pairs 0-2, 1-3) -> 0 2 1 3
    """
    if config.model_type != "llama" or not ("q_proj" in key or "k_proj" in key):
        return tensor
    heads = config.num_attention_heads if "q_proj" in key else config.num_key_value_heads
    paired = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return paired.transpose(1, 2).reshape(tensor.shape)

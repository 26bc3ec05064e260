"""Tiny random models of the families that are trained exactly, and the table of them in the docs:
`python -m tests.models.families` prints it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from vibelite.models.attention import ATTENTION

DOCS = Path(__file__).parents[2] / "docs" / "models.md"
SIZES = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
HEADS = {"head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
MAMBA = {"mamba_n_heads": 4, "mamba_d_state": 8, "mamba_chunk_size": 16}
DELTA = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4,
    "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
# Shorter than the sequences of the tests.
WINDOW = {"sliding_window": 6}
# What each family does to logits and scores is made large enough to be seen. By the name of the
# configuration: transformers' Qwen3_5TextConfig and so on.
PACKED: dict[str, dict[str, Any]] = {
    "Qwen2": {"use_sliding_window": True, "max_window_layers": 1} | WINDOW,
    "Qwen3": HEADS,
    "Qwen3Moe": HEADS | EXPERTS,
    "Llama": {},
    "SmolLM3": {},
    "Mistral": WINDOW,
    "Ministral3": WINDOW,
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Gemma2": HEADS | WINDOW | {"final_logit_softcapping": 1.5, "attn_logit_softcapping": 0.7},
    "Gemma3Text": HEADS | WINDOW | {"final_logit_softcapping": 1.5},
    "Gemma4Text": HEADS | WINDOW | {
        "final_logit_softcapping": 1.5, "num_hidden_layers": 4, "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "vocab_size_per_layer_input": 300, "hidden_size_per_layer_input": 8,
    },
    "Granite": {"logits_scaling": 0.25, "residual_multiplier": 0.5, "attention_multiplier": 0.4},
    "Cohere": {"logit_scale": 3.0},
    "Cohere2": {"logit_scale": 3.0} | WINDOW,
    "HyperCLOVAX": {"logits_scaling": 4.0},
    "Phi": {},
    "Phi3": WINDOW,
    "Olmo2": {},
    "Olmo3": WINDOW,
    "Glm4": HEADS,
    "Starcoder2": WINDOW,
    "Exaone4": WINDOW | {"sliding_window_pattern": 2},
    "Helium": HEADS,
    "GptOss": HEADS | WINDOW | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "OPT": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "GPTNeoX": {},
}  # fmt: skip
# Trained one sequence at a time.
ALONE: dict[str, dict[str, Any]] = {
    "Qwen3_5Text": HEADS | DELTA,
    "Qwen3Next": HEADS | DELTA | EXPERTS,
    "Lfm2": {"layer_types": ["conv", "full_attention"]},
    "FalconH1": MAMBA | {"lm_head_multiplier": 3.0, "mamba_d_ssm": 32},
    "GraniteMoeHybrid": MAMBA | {
        "layer_types": ["mamba", "attention"], "num_local_experts": 0, "mamba_d_head": 16,
        "shared_intermediate_size": 48, "logits_scaling": 0.25, "mamba_n_groups": 1,
    },
    "Bamba": MAMBA | {"attn_layer_indices": [1], "mamba_d_head": 16},
}  # fmt: skip
# Refused, each with words of its message.
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama4Text": ("its attention is in chunks", HEADS | {"num_local_experts": 2}),
    "RecurrentGemma": ("the head differs by up to", {"lru_width": 32}),
}
FAMILIES = PACKED | ALONE


def random_model(family: str, dtype: torch.dtype = torch.float32, **sizes: Any) -> Any:
    """A model whose log-probs are far from uniform, with our attention."""
    options = REFUSED[family][1] if family in REFUSED else FAMILIES[family]
    config = getattr(transformers, f"{family}Config")(**(SIZES | options | sizes))
    model: Any = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=ATTENTION
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 or name.endswith(("lm_head.bias", "sinks")):
                parameter.normal_(0, 0.3, generator=generator)
    return model.to(dtype).eval()


def table() -> list[str]:
    """The rows of the table in docs/models.md."""
    rows = ["| family | `model_type` | sequences of a micro-batch |", "|---|---|---|"]
    for names, how in ((PACKED, "packed"), (ALONE, "one at a time")):
        for name in names:
            config = getattr(transformers, f"{name}Config")
            rows.append(f"| {name.removesuffix('Text')} | `{config.model_type}` | {how} |")
    return rows


if __name__ == "__main__":
    print("\n".join(table()))

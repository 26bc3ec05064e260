"""Bytes for keys and values: what is left, no more than is useful, and a message where it is too
little.
"""

import pytest
import torch
from transformers import Qwen2Config

from vibelite.errors import EngineError
from vibelite.rollout.kv_memory import (
    BYTES_PER_LOGIT,
    MARGIN_SHARE,
    BatchSizes,
    engine_shape,
    kv_cache_bytes,
)

GIB = 2**30
QWEN_1_5B = Qwen2Config(
    vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28,
    num_attention_heads=12, num_key_value_heads=2,
)  # fmt: skip


def shape(**values):
    batch = BatchSizes(max_sequences=64, max_model_len=16384, max_batched_tokens=8192)
    return engine_shape(QWEN_1_5B, torch.bfloat16, batch, **values)


def test_a_token_takes_keys_and_values_of_every_layer():
    # 2 (keys, values) x 28 layers x 2 heads x 128 numbers x 2 bytes
    assert shape().bytes_per_token == 28672
    # Two GPUs have a head each, and four too: heads are not cut.
    assert [shape(num_slices=n).bytes_per_token for n in (2, 4)] == [14336, 14336]


def test_plenty_is_cut_to_what_all_sequences_can_use():
    useful = 64 * (16384 + 32) * 28672
    assert kv_cache_bytes(shape(), free_bytes=75 * GIB, total_bytes=80 * GIB) == useful


def test_little_is_what_is_left_beside_the_work_space():
    working = (
        8192 * (4 * 1536 + 3 * 8960) * 2
        + 64 * 151936 * BYTES_PER_LOGIT
        + int(MARGIN_SHARE * 24 * GIB)
    )
    found = kv_cache_bytes(shape(), free_bytes=12 * GIB, total_bytes=24 * GIB)
    assert found == 12 * GIB - working


def test_less_than_one_sequence_is_refused_with_what_to_change():
    with pytest.raises(EngineError, match=r"0\.44 GiB for one sequence of 16384 tokens.*lower"):
        kv_cache_bytes(shape(), free_bytes=2 * GIB, total_bytes=24 * GIB)

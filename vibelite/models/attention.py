"""Attention over packed sequences, registered with transformers under the name in `ATTENTION`.

Training passes a `PackedLayout`: each sequence attends to itself alone, by flash attention over
variable lengths where a GPU has it (`runs_varlen`), else by scaled dot-product attention over
buckets of similar lengths. Neither holds anything of size T x T, but for softcapped scores and
sinks, and for windows in buckets. Without a layout (decoding with a cache) the mask is given.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

ATTENTION = "vibelite"
# Flash attention's limits: compute capability, and heads of a multiple of 8 up to 256 numbers.
VARLEN_CAPABILITY = (8, 0)
VARLEN_HEAD_MULTIPLE, VARLEN_HEAD_SIZE = 8, 256
# torch 2.12 and later want to be told that key-value heads are shared; 2.11 takes them untold.
VARLEN_HAS_GQA_FLAG = "enable_gqa" in inspect.signature(varlen_attn).parameters


@dataclass(frozen=True)
class PackedLayout:
    """How N packed tokens fall into sequences: their boundaries [S+1], int32 on the tokens' device
    and as numbers.
    """

    cu_seqlens: torch.Tensor
    boundaries: tuple[int, ...]

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First token of each sequence, and the one behind its last."""
        return list(zip(self.boundaries[:-1], self.boundaries[1:], strict=True))

    @property
    def longest(self) -> int:
        return max(end - start for start, end in self.spans)

    @cached_property
    def buckets(self) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Sequences of similar length side by side, at least half as long as the longest of their
        bucket: which token each slot holds [rows, width], a row's last again and again behind its
        end; and where each of the N tokens is among the slots of all buckets.
        """
        spans = sorted(self.spans, key=lambda span: (span[0] - span[1], span[0]))
        slots, first, buckets = torch.empty(self.boundaries[-1], dtype=torch.long), 0, []
        device = self.cu_seqlens.device
        while spans:
            width, rows = spans[0][1] - spans[0][0], []
            while spans and 2 * (spans[0][1] - spans[0][0]) >= width:
                start, end = spans.pop(0)
                rows.append(torch.arange(start, start + width).clamp(max=end - 1))
                slots[start:end] = torch.arange(first, first + end - start)
                first += width
            buckets.append(torch.stack(rows).to(device))
        return buckets, slots.to(device)


def packed_layout(cu_seqlens: torch.Tensor) -> PackedLayout:
    """The layout of sequences with boundaries `cu_seqlens` [S+1], int32."""
    return PackedLayout(cu_seqlens, tuple(cu_seqlens.tolist()))


@dataclass(frozen=True, slots=True)
class Scores:
    """What a layer makes of query-key products before the softmax: their scale; how many tokens a
    query sees, itself and those before it; c tanh(r / c) for a `softcap` c; one more score per head
    [heads], a sink that holds no value.
    """

    scale: float | None = None
    window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    @property
    def are_plain(self) -> bool:
        """Whether scaled dot-product attention computes them, given a mask for the window."""
        return self.softcap is None and self.sinks is None

    def mask(self, num_queries: int, num_keys: int, device: torch.device) -> torch.Tensor:
        """Which keys each query sees [T, S]; the queries are the last T of the S tokens."""
        shape = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device)
        seen = shape.tril(num_keys - num_queries)
        return seen if self.window is None else seen.triu(num_keys - num_queries + 1 - self.window)


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    packed_layout: PackedLayout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """For transformers: query [B, heads, T, D] -> [B, T, heads, D]; B = 1 when packed."""
    scores = Scores(*map(kwargs.get, ("scaling", "sliding_window", "softcap", "s_aux")))
    if packed_layout is None:
        return _attend_rows(query, key, value, attention_mask, scores).transpose(1, 2), None
    query, key, value = (
        states[0].transpose(0, 1) for states in (query, key, value)
    )  # [N, heads, D]
    is_fast = scores.are_plain and runs_varlen(query) and value.shape[-1] == query.shape[-1]
    attend = _attend_varlen if is_fast else _attend_in_buckets
    return attend(query, key, value, packed_layout, scores).unsqueeze(0), None


def runs_varlen(query: torch.Tensor) -> bool:
    """Whether packed sequences with these queries [N, heads, D] go through flash attention."""
    return (
        query.device.type == "cuda"
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] % VARLEN_HEAD_MULTIPLE == 0
        and query.shape[-1] <= VARLEN_HEAD_SIZE
        and torch.cuda.get_device_capability(query.device) >= VARLEN_CAPABILITY
    )


def _attend_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackedLayout,
    scores: Scores,
) -> torch.Tensor:
    """Queries [N, heads, D], keys and values [N, kv heads, D] -> [N, heads, D], no padding."""
    shares_keys = key.shape[1] != query.shape[1]
    grouping: dict[str, Any] = {"enable_gqa": shares_keys} if VARLEN_HAS_GQA_FLAG else {}
    boundaries, longest = layout.cu_seqlens, layout.longest
    # Tokens seen before and after the query's own; -1 = all.
    window = (-1 if scores.window is None else scores.window - 1, 0)
    attended = varlen_attn(
        query, key, value, boundaries, boundaries, longest, longest,
        scale=scores.scale, window_size=window, **grouping,
    )  # fmt: skip
    assert isinstance(attended, torch.Tensor), "no auxiliary output was asked for"
    return attended


def _attend_in_buckets(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackedLayout,
    scores: Scores,
) -> torch.Tensor:
    """As `_attend_varlen`, on any device in any dtype.

    Causal attention with the padding behind each row needs no mask for it: no real token sees a
    later slot.
    """
    outputs, (buckets, slots) = [], layout.buckets
    for index in buckets:
        queries, keys, values = (  # [rows, heads, width, D]; autograd keeps these alone
            part.index_select(0, index.flatten()).unflatten(0, index.shape).transpose(1, 2)
            for part in (query, key, value)
        )
        attended = _attend_rows(queries, keys, values, None, scores)
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).index_select(0, slots)


def _attend_rows(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scores: Scores,
) -> torch.Tensor:
    """Queries [B, heads, T, D] of the last T of S tokens, keys and values [B, kv heads, S, D] ->
    [B, heads, T, D]. `mask` [B, 1, T, S] says which keys are seen; None = all up to the query.
    """
    num_queries, num_keys = query.shape[2], key.shape[2]
    if num_queries == 1 and scores.window is not None:
        key, value = key[:, :, -scores.window :], value[:, :, -scores.window :]
        mask = None if mask is None else mask[..., -scores.window :]
    elif mask is None and num_queries > 1:
        is_limited = scores.window is not None and num_keys > scores.window
        if is_limited or num_keys > num_queries or not scores.are_plain:
            mask = scores.mask(num_queries, num_keys, query.device)
    elif mask is not None and scores.window is not None:
        mask = mask & scores.mask(num_queries, num_keys, query.device)
    if not scores.are_plain:
        return _attend_by_definition(query, key, value, mask, scores)
    sharing = query.shape[1] // key.shape[1]
    if num_queries == 1:
        # Query heads that share a key-value head stand in for query positions: keys and values are
        # read once and never repeated, at 9 heads on 3 two thirds of the traffic.
        grouped = query.unflatten(1, (-1, sharing)).squeeze(3)
        attended = _attend(grouped, key, value, attn_mask=mask, scale=scores.scale)
        return attended.flatten(1, 2).unsqueeze(2)
    if sharing > 1 and (mask is not None or query.device.type == "cuda"):
        # Flash attention alone shares heads on a GPU; without it torch would fall back to the
        # T x T matrix.
        key, value = (states.repeat_interleave(sharing, 1) for states in (key, value))
    return _attend(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scores.scale,
        enable_gqa=key.shape[1] != query.shape[1],
    )  # fmt: skip


def _attend_by_definition(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scores: Scores,
) -> torch.Tensor:
    """As `_attend_rows`, for scores that no fused attention computes; holds all of them."""
    sharing = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(sharing, 1) for states in (key, value))
    scale = query.shape[-1] ** -0.5 if scores.scale is None else scores.scale
    found = query @ key.transpose(2, 3) * scale  # [B, heads, T, S]
    if scores.softcap is not None:
        found = scores.softcap * torch.tanh(found / scores.softcap)
    if mask is not None:
        found = found.masked_fill(~mask, -torch.inf)
    if scores.sinks is not None:
        sinks = scores.sinks.to(found.dtype).view(1, -1, 1, 1).expand(*found.shape[:3], 1)
        found = torch.cat([found, sinks], -1)
    dtype = torch.promote_types(query.dtype, torch.float32)
    weights = found.softmax(-1, dtype=dtype)[..., : key.shape[2]]
    return weights.to(query.dtype) @ value


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any
) -> torch.Tensor:
    """Scaled dot-product attention, on a CPU always with float32 products.

    With matmul_precision "medium" torch's CPU attention converts every small block: one token of
    128 rows and 9 heads took 12.8 ms over 60 keys, and 1.6 ms over 100 keys without.
    """
    precision = torch.get_float32_matmul_precision()
    if query.device.type != "cpu" or precision == "highest":
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, **options)
    torch.set_float32_matmul_precision("highest")
    try:
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, **options)
    finally:
        torch.set_float32_matmul_precision(precision)


AttentionInterface.register(ATTENTION, attention_forward)

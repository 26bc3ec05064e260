"""The key-value cache of a batch that is being decoded: written in place, not copied per token."""

from __future__ import annotations

import torch


class KeyValueCache:
    """Keys and values of every layer, each [B, kv heads, length, D] so far.

    It is what transformers calls `past_key_values`. Buffers have room for more tokens than they
    hold, and grow by half when they are full.
    """

    def __init__(self, *, extra_tokens: int = 64) -> None:
        """`extra_tokens`: room left behind the prompt at first."""
        self._extra_tokens = extra_tokens
        self._buffers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._lengths: list[int] = []

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_: object,
        **__: object,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends [B, kv heads, T, D] to a layer; everything that the layer holds, as views."""
        if layer_idx == len(self._buffers):
            room = key_states.shape[2] + self._extra_tokens
            self._buffers.append((_with_room(key_states, room), _with_room(value_states, room)))
            self._lengths.append(0)
        start = self._lengths[layer_idx]
        end = start + key_states.shape[2]
        keys, values = self._buffers[layer_idx]
        if end > keys.shape[2]:
            room = max(end, keys.shape[2] * 3 // 2)
            keys, values = _grown(keys, start, room), _grown(values, start, room)
            self._buffers[layer_idx] = keys, values
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        self._lengths[layer_idx] = end
        return keys[:, :, :end], values[:, :, :end]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens held per line."""
        return self._lengths[layer_idx] if self._lengths else 0

    def select(self, lines: torch.Tensor) -> None:
        """Keeps these lines of the batch, in this order; a line may be named several times."""
        for layer, (keys, values) in enumerate(self._buffers):
            self._buffers[layer] = keys.index_select(0, lines), values.index_select(0, lines)


def _with_room(states: torch.Tensor, room: int) -> torch.Tensor:
    return states.new_empty(states.shape[0], states.shape[1], room, states.shape[3])


def _grown(buffer: torch.Tensor, length: int, room: int) -> torch.Tensor:
    grown = _with_room(buffer, room)
    grown[:, :, :length] = buffer[:, :, :length]
    return grown

"""The transformers engine: samples from the policy's own module, so its weights are the trainer's
by construction.

Prompts are left-padded and read once; their key-value cache is then repeated for the G completions
of each. Rows that have ended leave the batch.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

import torch
from transformers import DynamicCache

from vibelite.errors import EngineError, RecipeError
from vibelite.models.policy import Policy, is_plain_attention
from vibelite.rollout.engine import SamplingSettings
from vibelite.types import Completion

# Rows that have ended are dropped once they are this share of the batch: a smaller one copies the
# cache too often.
COMPACT_SHARE = 0.25
# Room for keys and values behind the prompt at first.
EXTRA_TOKENS = 64


class TransformersEngine:
    """Samples `max_sequences` rows side by side; a completion ends with the first of `stop_ids`, or
    after `max_new_tokens`.
    """

    def __init__(self, policy: Policy, *, stop_ids: Sequence[int], max_sequences: int) -> None:
        self._policy = policy
        self._is_plain = policy.is_packed and is_plain_attention(policy.model.config)
        self._stop_ids = frozenset(stop_ids)
        self._max_sequences = max_sequences
        self._weights_version = 0
        self._is_awake = True
        self._num_tokens = 0
        self._seconds = 0.0
        if not self._is_plain:
            self._require_cache()

    @torch.inference_mode()
    def _require_cache(self) -> None:
        """RecipeError for a model that goes on from its cache otherwise than it reads a text."""
        tokens = [7, 11, 5, 9, 8]
        _, state = self._prefill([tokens[:-1]], 1)
        continued = self._decode(torch.tensor(tokens[-1:], device=self._policy.device), state)
        whole, _ = self._prefill([tokens], 1)
        if not (continued - whole).abs().mean() < 0.1 * whole.std():
            raise RecipeError(
                f"{type(self._policy.model).__name__}: transformers continues its texts wrongly "
                "from its cache; use a model of a family in docs/models.md"
            )

    def load_weights(self, version: int) -> None:
        self._weights_version = version

    def sleep(self) -> None:
        self._is_awake = False

    def wake(self) -> None:
        self._is_awake = True

    def close(self) -> None:
        self._is_awake = False

    def metrics(self) -> dict[str, float]:
        num_tokens, seconds = self._num_tokens, self._seconds
        self._num_tokens, self._seconds = 0, 0.0
        return {"rollout/tokens_per_second": num_tokens / seconds} if num_tokens else {}

    @torch.inference_mode()
    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        *,
        seed: int,
        skip: Collection[tuple[int, int]] = (),
    ) -> Iterator[tuple[int, int, Completion]]:
        """As `RolloutEngine.stream`; completions depend on `max_sequences` too."""
        if not self._is_awake:
            raise EngineError("the engine is asleep or closed; wake it before generating")
        if any(len(prompt) == 0 for prompt in prompts):
            raise EngineError("a prompt has no tokens; check the chat template of the model")
        # Only keys and values can be padded and masked.
        most = self._max_sequences // settings.num_completions if self._is_plain else 1
        prompts_per_chunk = max(1, most)
        for start in range(0, len(prompts), prompts_per_chunk):
            chunk = prompts[start : start + prompts_per_chunk]
            generator = torch.Generator(self._policy.device).manual_seed((seed + start) % 2**63)
            pairs = product(range(start, start + len(chunk)), range(settings.num_completions))
            wanted = [row for row, pair in enumerate(pairs) if pair not in skip]
            if not wanted:
                continue
            resumed = time.perf_counter()
            for index, row in self._generate_chunk(chunk, settings, generator, wanted):
                prompt, sample = divmod(index, settings.num_completions)
                completion = self._completion(row)
                self._num_tokens += len(completion.token_ids)
                self._seconds += time.perf_counter() - resumed
                yield start + prompt, sample, completion
                resumed = time.perf_counter()

    def _completion(self, row: _Row) -> Completion:
        (text,) = self._policy.tokenizer.batch_decode([row.token_ids], skip_special_tokens=True)
        reason = "stop" if row.token_ids[-1] in self._stop_ids else "length"
        return Completion(
            tuple(row.token_ids), tuple(row.logprobs), reason, text, self._weights_version
        )

    def _generate_chunk(
        self,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        generator: torch.Generator,
        wanted: Sequence[int],
    ) -> Iterator[tuple[int, _Row]]:
        """Yields (row, what it became) as the `wanted` rows end; G rows for each of the prompts."""
        device = self._policy.device
        num_rows = len(prompts) * settings.num_completions
        rows = [_Row() for _ in range(num_rows)]
        active = torch.tensor(wanted, device=device)  # which row each line of the batch is
        stop_ids = torch.tensor(sorted(self._stop_ids), device=device)
        logits, state = self._prefill(prompts, settings.num_completions)
        if len(wanted) < num_rows:
            logits = logits[active]
            state.select(active)
        is_running = torch.ones(len(wanted), dtype=torch.bool, device=device)
        for step in range(settings.max_new_tokens):
            # One number per row of the chunk, ended or not: a row's randomness does not depend on
            # the others.
            uniforms = torch.rand(num_rows, generator=generator, device=device)[active]
            tokens, logprobs = sample_tokens(logits, uniforms, settings)
            for row, token, logprob, running in zip(
                active.tolist(),
                tokens.tolist(),
                logprobs.tolist(),
                is_running.tolist(),
                strict=True,
            ):
                if running:
                    rows[row].token_ids.append(token)
                    rows[row].logprobs.append(logprob)
                    if token in self._stop_ids or step + 1 == settings.max_new_tokens:
                        yield row, rows[row]
            is_running &= ~torch.isin(tokens, stop_ids)
            num_running = int(is_running.sum())
            if num_running == 0 or step + 1 == settings.max_new_tokens:
                return
            if num_running <= (1 - COMPACT_SHARE) * len(active):
                keep = is_running.nonzero().squeeze(1)
                active, tokens, is_running = active[keep], tokens[keep], is_running[keep]
                state.select(keep)
            logits = self._decode(tokens, state)

    def _prefill(
        self, prompts: Sequence[Sequence[int]], repeats: int
    ) -> tuple[torch.Tensor, _DecodeState]:
        """Logits [P G, V] of the next token, and the state, both repeated for each completion."""
        device = self._policy.device
        width = max(len(prompt) for prompt in prompts)
        # Padding repeats the prompt's first token: any valid id will do, as it is masked.
        padded = [[prompt[0]] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        input_ids = torch.tensor(padded, device=device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        columns = torch.arange(width, device=device)
        is_real = columns[None] >= (width - lengths)[:, None]  # [P, width]
        causal = columns[None, :] <= columns[:, None]  # [width, width]
        # A padding position sees itself, so that no softmax runs over nothing.
        mask = (causal & is_real[:, None, :]) | torch.eye(width, dtype=torch.bool, device=device)
        cache = KeyValueCache() if self._is_plain else OwnCache(config=self._policy.model.config)
        output = self._policy.model(
            input_ids=input_ids,
            position_ids=(columns[None] - (width - lengths)[:, None]).clamp(min=0),
            attention_mask=mask[:, None] if self._is_plain else None,
            past_key_values=cache,
            logits_to_keep=1,
        )
        cache.select(torch.arange(len(prompts), device=device).repeat_interleave(repeats))
        state = _DecodeState(
            cache,
            is_real.repeat_interleave(repeats, dim=0),
            lengths.repeat_interleave(repeats, dim=0),
        )
        return output.logits[:, -1].repeat_interleave(repeats, dim=0), state

    def _decode(self, tokens: torch.Tensor, state: _DecodeState) -> torch.Tensor:
        """Feeds one token per line; logits [lines, V] of the next."""
        state.is_real = torch.nn.functional.pad(state.is_real, (0, 1), value=True)
        output = self._policy.model(
            input_ids=tokens[:, None],
            position_ids=state.lengths[:, None],
            attention_mask=state.is_real[:, None, None, :] if self._is_plain else None,
            past_key_values=state.cache,
        )
        state.lengths = state.lengths + 1
        return output.logits[:, -1]


@dataclass(slots=True)
class _Row:
    """A completion while it grows."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class KeyValueCache:
    """Keys and values of every layer, each [B, kv heads, length, D] so far: transformers'
    `past_key_values`, but written in place and not copied for every token. Buffers have room for
    more tokens than they hold, and grow by half when they are full.
    """

    def __init__(self) -> None:
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
            room = key_states.shape[2] + EXTRA_TOKENS
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


class OwnCache(DynamicCache):
    """transformers' own cache, for layers with more than keys and values: recurrent states."""

    def select(self, lines: torch.Tensor) -> None:
        """As `KeyValueCache.select`."""
        self.reorder_cache(lines)  # pyright: ignore[reportArgumentType]


def _with_room(states: torch.Tensor, room: int) -> torch.Tensor:
    return states.new_empty(states.shape[0], states.shape[1], room, states.shape[3])


def _grown(buffer: torch.Tensor, length: int, room: int) -> torch.Tensor:
    grown = _with_room(buffer, room)
    grown[:, :, :length] = buffer[:, :, :length]
    return grown


@dataclass(slots=True)
class _DecodeState:
    """The running lines' cache, which of its positions are real, and each line's length."""

    cache: KeyValueCache | OwnCache
    is_real: torch.Tensor
    lengths: torch.Tensor

    def select(self, keep: torch.Tensor) -> None:
        self.cache.select(keep)
        self.is_real, self.lengths = self.is_real[keep], self.lengths[keep]


def sample_tokens(
    logits: torch.Tensor, uniforms: torch.Tensor, settings: SamplingSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [B] drawn from logits [B, V] with one uniform number in [0, 1) each, and their
    log-probs [B] in nats, after temperature and top_p. Temperature 0 takes the most likely token,
    at log-prob 0.

    Inversion of the cumulative sum of exp((logit - largest) / temperature), whose last entry is the
    normaliser: whole rows are never normalised. A row's result depends on that row alone.
    """
    if settings.temperature == 0:
        tokens = logits.argmax(dim=-1)
        return tokens, torch.zeros_like(tokens, dtype=torch.float32)
    largest = logits.amax(dim=-1, keepdim=True).float()
    # Shifted before it is divided, so that logits of any size lose nothing where weights matter.
    weights = (logits - largest).div_(settings.temperature).exp_()  # [B, V], float32
    if settings.top_p < 1:
        weights = keep_top_p(weights, settings.top_p)
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, uniforms.double()[:, None] * total, right=True)
    tokens = tokens.clamp_(max=logits.shape[-1] - 1)  # a row of NaN: log-prob NaN
    shifted = (logits.gather(1, tokens).double() - largest) / settings.temperature
    return tokens.squeeze(1), (shifted - total.log()).float().squeeze(1)


def keep_top_p(weights: torch.Tensor, top_p: float) -> torch.Tensor:
    """Weights [B, V], proportional to probabilities, with 0 outside the smallest set of likeliest
    tokens whose probability is at least top_p. Of equal weights the first are kept.
    """
    ordered, indices = weights.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1, dtype=torch.float64)
    enough = top_p * before[:, -1:]
    ordered.masked_fill_(before.sub_(ordered) >= enough, 0.0)
    return torch.empty_like(weights).scatter_(1, indices, ordered)

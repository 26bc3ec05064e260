"""A causal language model with its tokenizer, and the log-probs of packed sequences under it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from vibelite.kernels import HeadCall, PerTokenLoss, TokenLoss, linear_logprobs, linear_token_loss
from vibelite.models.attention import packed_layout
from vibelite.types import TokenBatch


@dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """What a policy's adapter is on: the model in directory `start`, in 4 bits or not."""

    start: Path
    four_bit: bool


@dataclass(frozen=True, slots=True)
class Head:
    """How a model's logits follow from its last hidden states: softcap(hidden weight^T + bias)
    scale, with weight [V, H], bias [V] or None, softcap(r) = c tanh(r / c) or none.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    softcap: float | None
    scale: float

    def call(self, hidden: torch.Tensor, targets: torch.Tensor, temperature: float) -> HeadCall:
        """What the kernels are asked for at hidden states [M, H] and targets [M]."""
        return HeadCall(
            hidden, self.weight, targets, temperature / self.scale, self.bias, self.softcap
        )


def head_of(model: PreTrainedModel) -> Head:
    """The head of a causal language model, as its own `forward` computes logits."""
    embeddings = model.get_output_embeddings()
    assert embeddings is not None, "a causal language model has a head"
    config = model.config.get_text_config()
    return Head(
        embeddings.weight,
        getattr(embeddings, "bias", None),
        getattr(config, "final_logit_softcapping", None),
        logit_scale(config),
    )


def is_plain_attention(config: PreTrainedConfig) -> bool:
    """Whether every layer is attention, with a window or without, and nothing else keeps a state
    from one token to the next.
    """
    layers = DynamicCache(config=config).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def logit_scale(config: PreTrainedConfig) -> float:
    """What a model multiplies its logits by: families have their own names for it."""
    scale = 1.0
    for name in ("logit_scale", "lm_head_multiplier"):  # Cohere, Falcon-H1
        scale *= getattr(config, name, None) or 1.0
    scaling = getattr(config, "logits_scaling", None) or 1.0
    return scale * scaling if config.model_type == "hyperclovax" else scale / scaling  # Granite


@dataclass(frozen=True, slots=True)
class Policy:
    """A model and its tokenizer; only here are positions shifted against log-probs."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    adapter: TrainedAdapter | None = None
    """Set where only an adapter in `model` is trained (adapter.py)."""
    packs: bool | None = None
    """Whether the decoder is given sequences end to end, or one at a time (agreement.py); None =
    not tried yet, and so only where every layer is plain attention."""

    @property
    def is_packed(self) -> bool:
        return is_plain_attention(self.model.config) if self.packs is None else self.packs

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def head(self) -> Head:
        return head_of(self.model)

    def hidden_states(self, batch: TokenBatch) -> torch.Tensor:
        """Last hidden states [N, H] of a packed batch; no sequence sees another."""
        if self.is_packed:
            return self._decode(batch.input_ids, batch.position_ids, batch.cu_seqlens)
        spans = packed_layout(batch.cu_seqlens).spans
        ends = batch.cu_seqlens.new_tensor([[0, end - start] for start, end in spans])
        parts = zip(spans, ends, strict=True)
        ids, positions = batch.input_ids, batch.position_ids
        return torch.cat([self._decode(ids[a:b], positions[a:b], own) for (a, b), own in parts])

    def _decode(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, cu_seqlens: torch.Tensor
    ) -> torch.Tensor:
        """Last hidden states [N, H]. Attention goes by the layout; recurrent layers by `seq_idx` or
        `cu_seq_lens_q`, where transformers passes these on.
        """
        layout = packed_layout(cu_seqlens)
        places = torch.arange(len(layout.spans), device=cu_seqlens.device, dtype=torch.int32)
        output = self.model.get_decoder()(
            input_ids=input_ids[None],
            position_ids=position_ids[None],
            use_cache=False,
            packed_layout=layout,
            cu_seq_lens_q=cu_seqlens,
            seq_idx=places.repeat_interleave(cu_seqlens.diff())[None],
        )
        return output.last_hidden_state[0]

    def predictions(self, batch: TokenBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states [M, H] that predict the M trained tokens, each the one before its token,
        and those tokens' positions [M].
        """
        positions = batch.completion_mask.nonzero().squeeze(1)
        return self.hidden_states(batch).index_select(0, positions - 1), positions

    @torch.no_grad()
    def logprobs(
        self, batch: TokenBatch, *, temperature: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probs and entropies under softmax(logits / temperature) of the M tokens in
        `batch.completion_mask`, in order, each [M] float32, without a gradient.
        """
        hidden, positions = self.predictions(batch)
        return linear_logprobs(self.head.call(hidden, batch.input_ids[positions], temperature))

    def token_loss(
        self, batch: TokenBatch, per_token_loss: PerTokenLoss, *, temperature: float = 1.0
    ) -> TokenLoss:
        """Sum of a loss over the M trained tokens, with their log-probs and entropies [M];
        `per_token_loss` as in `linear_token_loss`.
        """
        hidden, positions = self.predictions(batch)
        call = self.head.call(hidden, batch.input_ids[positions], temperature)
        return linear_token_loss(call, per_token_loss)

    @contextmanager
    def accumulating(self, num_micro_batches: int) -> Iterator[None]:
        """Around the backward passes of one step; here there is nothing to prepare
        (`ranks/full_sharding.py`).
        """
        yield

    def trainable_parameters(self) -> Iterable[torch.nn.Parameter]:
        return (parameter for parameter in self.model.parameters() if parameter.requires_grad)

    def save(self, directory: Path) -> None:
        """Writes a Hugging Face directory: model, configuration, tokenizer."""
        self.save_weights(directory, self.weights())

    def weights(self) -> dict[str, torch.Tensor]:
        """By name, as they are written."""
        return self.model.state_dict()

    def save_weights(self, directory: Path, weights: dict[str, torch.Tensor]) -> None:
        """As `save`, with `weights` in place of the model's own."""
        assert self.adapter is None, "an adapter is saved by itself, or merged first"
        self.model.save_pretrained(directory, state_dict=weights)
        self.tokenizer.save_pretrained(directory)

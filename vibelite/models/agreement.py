"""The check of every policy that is made: are its log-probs those of the model's own forward pass?

Families differ in what they do to logits and to attention scores, and in whether a state runs on
from one packed sequence into the next. What is trained must be the model, so a policy whose
log-probs differ is refused, unless those of one sequence at a time do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from vibelite.errors import RecipeError
from vibelite.kernels import linear_logprobs
from vibelite.models.attention import ATTENTION
from vibelite.models.policy import Policy
from vibelite.types import TokenBatch

LENGTHS = (37, 5, 24)
# Largest error of a log-prob in float32, in nats; a model that answers to rounding more strongly is
# allowed so many times what one rounding of its embeddings changes.
LARGEST_ERROR, LARGEST_ROUNDINGS = 1e-4, 10.0
# In 16 bits, the mean error in units of that of the model's own forward pass.
LARGEST_RATIO = 3.0
# Where weights are in 4 bits they are multiplied in 16.
LARGEST_ERROR_OF_FOUR_BIT = 0.5


@torch.no_grad()
def agreeing(policy: Policy) -> Policy:
    """The policy, set to take one sequence at a time where only that is exact. RecipeError where
    its log-probs are not the model's own in float32 or, by mean errors, in its weights' type.
    """
    layer_types = getattr(policy.model.config.get_text_config(), "layer_types", None) or ()
    if policy.model.get_decoder() is policy.model or "chunked_attention" in layer_types:
        raise _refusal(policy, "no part of it gives hidden states, or its attention is in chunks")
    generator = torch.Generator().manual_seed(0)
    vocab_size = min(len(policy.tokenizer), policy.head.weight.shape[0])
    sequences = [torch.randint(vocab_size, (n,), generator=generator) for n in LENGTHS]
    batch = pack_whole(sequences, policy.device)
    with _exact_products():
        with _in_float32(policy.model):
            exact, hidden = _own_logprobs(policy, sequences)
            with _rounded_embeddings(policy.model):
                usual = (_own_logprobs(policy, sequences)[0] - exact).abs().max().item()
            limit = max(LARGEST_ERROR, LARGEST_ROUNDINGS * usual)
            if getattr(policy.model, "is_loaded_in_4bit", False):
                limit = LARGEST_ERROR_OF_FOUR_BIT
            found = _exact_policy(policy, batch, exact, limit)
            if found is None:
                raise _refusal(policy, _place(policy, batch, exact, hidden, limit))
        dtype = policy.head.weight.dtype
        if dtype.itemsize < 4:
            usual = (_own_logprobs(policy, sequences)[0] - exact).abs().mean().item()
            error = (found.logprobs(batch)[0] - exact).abs().mean().item()
            if not error <= LARGEST_RATIO * usual + LARGEST_ERROR:
                raise _refusal(
                    policy,
                    f"in {dtype} log-probs are off by {error:.2g} nats on average, the model's own "
                    f"by {usual:.2g}",
                )
    return found


def _exact_policy(
    policy: Policy, batch: TokenBatch, exact: torch.Tensor, limit: float
) -> Policy | None:
    """The policy that has the exact log-probs [M], packing or not; None if neither has."""
    for candidate in (replace(policy, packs=True), replace(policy, packs=False)):
        try:
            logprobs, _ = candidate.logprobs(batch)
        except TypeError as error:
            raise _refusal(policy, f"its layers take no boundaries ({error})") from error
        if (logprobs - exact).abs().max().item() <= limit:
            return candidate
    return None


def _place(
    policy: Policy, batch: TokenBatch, exact: torch.Tensor, hidden: torch.Tensor, limit: float
) -> str:
    """What differs, the head or the layers, by the help of the model's own hidden states [M, H]."""

    def largest(logprobs: torch.Tensor) -> float:
        return (logprobs - exact).abs().max().item()

    targets = batch.input_ids[batch.completion_mask]
    head = largest(linear_logprobs(policy.head.call(hidden, targets, 1.0))[0])
    if not head <= limit:
        return f"the head differs by up to {head:.2g} nats"
    packed, alone = (largest(replace(policy, packs=p).logprobs(batch)[0]) for p in (True, False))
    return (
        f"the layers differ: log-probs by up to {packed:.2g} nats where sequences are packed, "
        f"{alone:.2g} for one at a time"
    )


def _refusal(policy: Policy, difference: str) -> RecipeError:
    return RecipeError(
        f"{type(policy.model).__name__} ({policy.model.config.model_type}): what would be trained "
        f"is not this model, {difference}; use a model of a family in docs/models.md"
    )


def pack_whole(sequences: Sequence[torch.Tensor], device: torch.device) -> TokenBatch:
    """Sequences end to end; every token but their first ones is trained on."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    position_ids = torch.cat([torch.arange(len(sequence)) for sequence in sequences])
    zeros = torch.zeros(len(position_ids), device=device)
    return TokenBatch(
        input_ids=torch.cat(list(sequences)).to(device),
        position_ids=position_ids.to(device),
        cu_seqlens=torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(device, torch.int32),
        completion_mask=(position_ids > 0).to(device),
        token_weights=zeros,
        advantages=zeros,
    )


def _own_logprobs(
    policy: Policy, sequences: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs [M] of all tokens but the first ones by the model's own forward pass of each
    sequence alone, with its own attention, and the hidden states [M, H] before them.
    """
    model: Any = policy.model
    logprobs, hidden = [], []
    last = model.get_decoder().register_forward_hook(
        lambda module, given, output: hidden.append(output.last_hidden_state[0, :-1])
    )
    model.set_attn_implementation("eager")
    try:
        for sequence in sequences:
            ids = sequence.to(model.device)
            logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            logprobs.append(logits.gather(1, ids[1:, None])[:, 0] - logits.logsumexp(-1))
    finally:
        last.remove()
        model.set_attn_implementation(ATTENTION)
    return torch.cat(logprobs), torch.cat(hidden)


@contextmanager
def _exact_products() -> Iterator[None]:
    """Within it, float32 matrices are multiplied in float32."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


@contextmanager
def _rounded_embeddings(model: PreTrainedModel) -> Iterator[None]:
    """Within it every number of the embeddings is off by one rounding in float32, up or down."""

    def nudge(_module: torch.nn.Module, _given: Any, output: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(2, output.shape, generator=generator).to(output) * 2 - 1
        return output * (1 + 2**-23 * signs)

    hook = model.get_input_embeddings().register_forward_hook(nudge)
    yield
    hook.remove()


@contextmanager
def _in_float32(model: torch.nn.Module) -> Iterator[None]:
    """Within it the model computes in float32 at least, its weights widened a layer at a time."""
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    inside = {module for layer in layers for module in layer.modules()}
    outside = [m for m in model.modules() if m not in inside]
    narrow: dict[torch.nn.Parameter, torch.Tensor] = {}

    def widen(module: torch.nn.Module, _: Any) -> None:
        for parameter in module.parameters(recurse=module in inside):
            if parameter.is_floating_point() and parameter.itemsize < 4:
                narrow[parameter] = parameter.data
                parameter.data = parameter.data.float()

    def restore(*_: Any) -> None:
        for parameter, data in narrow.items():
            parameter.data = data
        narrow.clear()

    hooks = [m.register_forward_pre_hook(widen) for m in (*layers, *outside)]
    hooks += [m.register_forward_hook(restore) for m in (*layers, *outside)]
    try:
        yield
    finally:
        restore()
        for hook in hooks:
            hook.remove()

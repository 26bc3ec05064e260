"""What a model keeps between forward and backward: `apply_activations` changes how its decoder
layers are run, not what they compute.

Two independent savings, for transformers' decoder models whatever their architecture:

* checkpointing: of each layer only its input is kept, on the device or on the host
  (`HostInputs`); the rest is computed again in the backward pass.
* tiling: a layer's norms and its MLP act on each token alone, so they run over some tokens at a
  time and keep their input only; the MLP's intermediates [T, mlp size] never exist as a whole.

Both give single modules a class of their own, whose `forward` calls the old one: parameters, names
and hooks stay as they are, and sampling runs the old `forward` alone. transformers' own
checkpointing does nothing in `eval()`, in which policies are always kept.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from vibelite.errors import RecipeError
from vibelite.recipe.model_section import Training

# Parts of a decoder layer whose output at a token depends on their input at that token alone, and
# that of the decoder itself.
TOKENWISE = ("input_layernorm", "post_attention_layernorm", "mlp")
FINAL_NORM = ("norm",)
# A module's own forward: hidden states [B, T, H] first.
Forward = Callable[..., Any]


def apply_activations(model: torch.nn.Module, training: Training) -> None:
    """Makes `model` keep and tile its activations as the recipe's `training` says; once per model.
    RecipeError for a model whose layers are not transformers' decoder layers.
    """
    if training.activations == "keep" and not training.mlp_tile_tokens:
        return
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers or any(not hasattr(layer, "mlp") for layer in layers):
        raise RecipeError(
            f"training.activations is {training.activations} and training.mlp_tile_tokens is "
            f"{training.mlp_tile_tokens}, but {type(model).__name__} has no decoder layers that "
            "are known here; use activations: keep and mlp_tile_tokens: 0"
        )
    if training.mlp_tile_tokens:
        decoder = next(m for m in model.modules() if layers[0] in list(getattr(m, "layers", [])))
        for owner in (decoder, *layers):
            for name, module in owner.named_children():
                if name in (TOKENWISE if owner is not decoder else FINAL_NORM):
                    _run_through(module, partial(_tiled, training.mlp_tile_tokens))
    inputs = HostInputs() if training.activations == "checkpoint_offload" else None
    if training.activations != "keep":
        for index, layer in enumerate(layers):
            _run_through(layer, partial(_checkpointed, inputs, index == 0))


def _run_through(module: torch.nn.Module, run: Callable[..., Any]) -> None:
    """From now on `module.forward(...)` is `run(module, its old forward, ...)`.

    By a class made for this one module: a function stored in it would keep it alive.
    """
    old = type(module)
    assert not hasattr(old, "vibelite_run"), "activations were applied to this model before"
    if "forward" in vars(module):
        raise RecipeError(
            f"the loader of this model has replaced the forward of {old.__name__}; use "
            "training.activations: keep and training.mlp_tile_tokens: 0 with it"
        )

    def forward(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        return run(self, partial(old.forward, self), *args, **kwargs)

    members = {"forward": forward, "vibelite_run": run, "__module__": old.__module__}
    module.__class__ = type(old.__name__, (old,), members)


def _checkpointed(
    inputs: HostInputs | None,
    is_first: bool,
    layer: torch.nn.Module,
    forward: Forward,
    hidden: torch.Tensor,
    **kwargs: Any,
) -> Any:
    """A layer's forward on hidden states [B, T, H]; where a gradient is computed it keeps these
    alone.
    """
    if not torch.is_grad_enabled():
        return forward(hidden, **kwargs)
    assert not layer.training, "layers are computed twice, so nothing in them may be random"
    again = partial(forward, **kwargs)
    if inputs is None:
        return checkpoint(again, hidden, use_reentrant=False, preserve_rng_state=False)
    if is_first:
        inputs.start()
    with saved_tensors_hooks(inputs.save, inputs.load):
        return checkpoint(again, hidden, use_reentrant=False, preserve_rng_state=False)


def _tiled(
    tile_tokens: int, module: torch.nn.Module, forward: Forward, hidden: torch.Tensor
) -> torch.Tensor:
    """A token-wise module's forward [B, T, H] -> [B, T, H], `tile_tokens` tokens at a time; while
    sampling, as it was.

    In two autograd functions: the input is saved before anything is computed, so that a
    checkpointed layer, which stops recomputing at its last saved tensor, does not run its MLP again
    only to throw the output away.
    """
    num_tokens = hidden.shape[:-1].numel()
    if torch.is_inference_mode_enabled() or num_tokens <= tile_tokens:
        return forward(hidden)
    assert not torch.is_autocast_enabled(hidden.device.type), "tiles are recomputed without it"
    parameters = tuple(p for p in module.parameters() if p.requires_grad)
    remembered = _RememberInput.apply(hidden, forward, tile_tokens, parameters, *parameters)
    return _ComputeTiles.apply(remembered, forward, tile_tokens)


class _ComputeTiles(torch.autograd.Function):
    """The module, tile by tile. Its backward hands the output's gradient on, as it is, to
    `_RememberInput`, which stands before it and does the work: input and output have one shape.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, forward: Forward, tile_tokens: int) -> torch.Tensor:
        rows = hidden.reshape(1, -1, hidden.shape[-1])
        first = forward(rows[:, :tile_tokens])
        output = first.new_empty(rows.shape)  # its type: weights in float32 widen the input
        output[:, :tile_tokens] = first
        for start in range(tile_tokens, rows.shape[1], tile_tokens):
            tile = slice(start, start + tile_tokens)
            output[:, tile] = forward(rows[:, tile])
        return output.view(hidden.shape)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return grad_outputs[0], None, None


class _RememberInput(torch.autograd.Function):
    """Saves the input; given the gradient of the module's output [B, T, H], returns those of the
    input and of the module's parameters, which are summed over tiles in at least float32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        forward: Forward,
        tile_tokens: int,
        parameters: tuple[torch.nn.Parameter, ...],
        *_: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(hidden)
        ctx.module = forward, tile_tokens, parameters
        return hidden.view_as(hidden)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (hidden,) = ctx.saved_tensors
        forward, tile_tokens, parameters = ctx.module
        rows = hidden.detach().reshape(1, -1, hidden.shape[-1])
        grad_rows = grad_outputs[0].reshape(rows.shape)
        needs_hidden = ctx.needs_input_grad[0]
        grad_hidden = torch.empty_like(rows) if needs_hidden else None
        wide = [torch.promote_types(p.dtype, torch.float32) for p in parameters]
        sums = [torch.zeros_like(p, dtype=d) for p, d in zip(parameters, wide, strict=True)]
        for start in range(0, rows.shape[1], tile_tokens):
            tile = slice(start, start + tile_tokens)
            with torch.enable_grad():
                part = rows[:, tile].requires_grad_(needs_hidden)
                output = forward(part)
            wanted = [*([part] if needs_hidden else []), *parameters]
            upstream = grad_rows[:, tile].to(output.dtype)
            gradients = list(torch.autograd.grad(output, wanted, upstream))
            if grad_hidden is not None:
                grad_hidden[:, tile] = gradients.pop(0)
            for total, gradient in zip(sums, gradients, strict=True):
                total.add_(gradient)
            del gradients  # else they would still be there when the next tile's are computed
        returned = [s.to(p.dtype) for s, p in zip(sums, parameters, strict=True)]
        of_hidden = None if grad_hidden is None else grad_hidden.view(hidden.shape)
        return of_hidden, None, None, None, *returned


@dataclass(eq=False)
class HostInput:
    """One layer's input [B, T, H] on the host; where it belongs, that of the layer before, and the
    copy on its way back with the event of its arrival.
    """

    host: torch.Tensor
    device: torch.device
    previous: weakref.ref[HostInput] | None
    arriving: tuple[torch.Tensor, torch.cuda.Event] | None = None


class HostInputs:
    """Keeps the inputs of a model's layers on the host; `save` and `load` are hooks of autograd.

    The graph alone holds the `HostInput`s; torch's pinned-memory cache takes a buffer back once the
    graph has let go of it. On the device are at most two inputs: the one in use, and the one that
    leaves or arrives. On a CPU the hooks copy, for tests.
    """

    def __init__(self) -> None:
        self._last: weakref.ref[HostInput] | None = None
        self._leaving: tuple[torch.Tensor, torch.cuda.Event] | None = None
        self._stream: torch.cuda.Stream | None = None

    def start(self) -> None:
        """Called before the first layer of a forward pass, which has none before it."""
        self._last = None

    def save(self, hidden: torch.Tensor) -> HostInput | torch.Tensor:
        """Starts the copy of a layer's input to the host."""
        if hidden.numel() == 0:
            return hidden  # torch 2.11 saves an empty tensor beside the input
        hidden, is_gpu = hidden.detach(), hidden.device.type == "cuda"
        host = torch.empty(hidden.shape, dtype=hidden.dtype, device="cpu", pin_memory=is_gpu)
        saved = HostInput(host, hidden.device, self._last)
        self._last = weakref.ref(saved)
        if is_gpu:
            # Held until the next layer, whose work then waits for the copy. Tensor.record_stream
            # would keep the memory for as long as the host, many layers ahead, may not use it.
            self._let_go()
            self._leaving = hidden, self._copy(host, hidden, hidden.device)
        else:
            host.copy_(hidden)
        return saved

    def load(self, saved: HostInput | torch.Tensor) -> torch.Tensor:
        """The input, on its device; starts the copy of the layer's before it."""
        if isinstance(saved, torch.Tensor):
            return saved
        if saved.device.type != "cuda":
            return saved.host.clone()
        self._let_go()
        hidden, arrived = saved.arriving or self._fetch(saved)
        saved.arriving = None
        torch.cuda.current_stream(saved.device).wait_event(arrived)
        previous = saved.previous() if saved.previous is not None else None
        if previous is not None and previous.arriving is None:
            previous.arriving = self._fetch(previous)
        return hidden

    def _fetch(self, saved: HostInput) -> tuple[torch.Tensor, torch.cuda.Event]:
        arriving = torch.empty_like(saved.host, device=saved.device)
        return arriving, self._copy(arriving, saved.host, saved.device)

    def _copy(
        self, target: torch.Tensor, source: torch.Tensor, device: torch.device
    ) -> torch.cuda.Event:
        """Starts a copy after all that the device has been asked to do so far (the memory that it
        was given may be in use until then); the event of its end.
        """
        stream, done = self._copies(device), torch.cuda.Event()
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)
            done.record(stream)
        return done

    def _let_go(self) -> None:
        """Frees the input that was last copied out, for work after that copy."""
        if self._leaving is not None:
            hidden, left = self._leaving
            torch.cuda.current_stream(hidden.device).wait_event(left)
            self._leaving = None

    def _copies(self, device: torch.device) -> torch.cuda.Stream:
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
        return self._stream

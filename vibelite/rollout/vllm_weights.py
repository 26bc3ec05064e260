"""The trainer's weights in vLLM's model: where each tensor is, and two ways to keep them the same.

alias   the trainer's parameters are views of vLLM's tensors: a sync copies nothing.
copy    into those views, all tensors at once, rounded to the engine's type.

vLLM stacks the rows of q, k and v in one tensor, and those of gate and up in another, and keeps a
slice of most on each of several GPUs. Where a tensor lies is worked out from names and sizes, and
proven once, bit by bit, against what vLLM's own loader wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vibelite.errors import EngineError, RecipeError
from vibelite.rollout.fingerprint import Fingerprint, fingerprint

WeightsIterator = Iterable[tuple[str, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Location:
    """Rows `start` to `start + rows` of vLLM's `parameter`. They hold the trainer's tensor from
    `first_row` and `first_column` on.
    """

    parameter: str
    start: int
    rows: int
    first_row: int = 0
    first_column: int = 0


@dataclass(frozen=True, slots=True)
class Slice:
    """Which of how many ranks of one engine this is."""

    rank: int = 0
    num_ranks: int = 1


def locate(
    shapes: Mapping[str, torch.Size],
    fused: Mapping[str, list[str]],
    engine_shapes: Mapping[str, torch.Size],
    own: Slice = Slice(),  # noqa: B008 - frozen
) -> dict[str, Location]:
    """Where each of the trainer's tensors lies in vLLM's model, and which part this rank holds.

    `fused` is the model's `packed_modules_mapping`, such as qkv_proj -> [q_proj, k_proj, v_proj].
    Where the engine's tensor is smaller, each rank in turn holds as many rows or columns; the last
    rows of an embedding are padding. EngineError names a tensor that vLLM does not have.
    """
    parts = {part: (whole, names) for whole, names in fused.items() for part in names}
    locations = {}
    for name, shape in shapes.items():
        words = name.split(".")
        place = next((i for i, word in enumerate(words) if word in parts), None)
        names, target = [], name
        if place is not None and name not in engine_shapes:
            whole, names = parts[words[place]]
            target = _with_word(words, place, whole)
        if target not in engine_shapes:
            raise EngineError(
                f"vLLM's model has no tensor for the trainer's {name}; this architecture needs "
                "rollout.engine: transformers"
            )
        held = engine_shapes[target]
        if names:
            rows = [shapes[_with_word(words, place or 0, part)][0] for part in names]
            held_rows = _held_rows(rows, held[0], own.num_ranks)
            index = names.index(words[place or 0])
            start, num_rows = sum(held_rows[:index]), held_rows[index]
            # Heads fewer than ranks are held by several in a row.
            first = own.rank * (shape[0] // num_rows) // own.num_ranks * num_rows
        else:
            first = min(own.rank * held[0], shape[0]) if held[0] < shape[0] else 0
            start, num_rows = 0, min(held[0], shape[0] - first)
        is_cut = len(shape) > 1 and held[1] < shape[1]
        column = own.rank * held[1] if is_cut else 0
        locations[name] = Location(target, start, num_rows, first, column)
    return locations


def _held_rows(rows: list[int], num_held: int, num_ranks: int) -> list[int]:
    """How many rows of each fused part this rank holds, `num_held` together. The first part is cut
    evenly over the ranks; what is left belongs to the others in proportion to their `rows`.

    >>> _held_rows([12, 2, 2], num_held=5, num_ranks=4)
    [3, 1, 1]
    """
    first = rows[0] // num_ranks
    return [first, *((num_held - first) * part // sum(rows[1:]) for part in rows[1:])]


def _with_word(words: list[str], place: int, word: str) -> str:
    return ".".join([*words[:place], word, *words[place + 1 :]])


class WeightSync:
    """Keeps a vLLM model equal to the trainer's tensors, by copies until `alias`. `weights` yields
    these by their Hugging Face names; `own` says which slices this GPU holds.
    """

    def __init__(
        self,
        model: Any,
        weights: Callable[[], WeightsIterator],
        own: Slice = Slice(),  # noqa: B008 - frozen
    ) -> None:
        self._model = model
        self._weights = weights
        self.is_alias = False
        shapes = {name: tensor.shape for name, tensor in weights()}
        held = {name: parameter.shape for name, parameter in model.named_parameters()}
        self._locations = locate(shapes, model.packed_modules_mapping, held, own)
        self._dtypes = {name: view.dtype for name, view in self.views()}
        self._shapes = {name: view.shape for name, view in self.views()}

    def views(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The trainer's tensors as they lie in vLLM's model now, by the trainer's names."""
        parameters = dict(self._model.named_parameters())
        for name, location in self._locations.items():
            data = parameters[location.parameter].data
            yield name, data.narrow(0, location.start, location.rows)

    def _own_weights(self) -> WeightsIterator:
        """The parts of the trainer's tensors that this GPU's engine holds."""
        for name, tensor in self._weights():
            location, shape = self._locations[name], self._shapes[name]
            part = tensor.detach().narrow(0, location.first_row, location.rows)
            if len(shape) > 1:
                part = part.narrow(1, location.first_column, shape[1])
            yield name, part

    def load_first(self) -> None:
        """Loads by vLLM's own loader; EngineError where a tensor is then not where `views` says."""
        self._model.load_weights(self._weights())
        views = dict(self.views())
        for name, tensor in self._own_weights():
            view = views[name]
            if not torch.equal(view, tensor.to(view.device, view.dtype)):
                raise EngineError(
                    f"vLLM keeps {name} in another layout than expected; this architecture needs "
                    "rollout.engine: transformers"
                )

    def alias(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        """Makes the trainer's parameters views of vLLM's tensors, whose values they hold already.
        RecipeError where they cannot be.
        """
        if reason := self.obstacle_to_alias(parameters):
            raise RecipeError(f"rollout.vllm.sync: alias is not possible: {reason}; use auto")
        for name, view in self.views():
            parameters[name].data = view
        self.is_alias = True

    def obstacle_to_alias(self, parameters: Mapping[str, torch.nn.Parameter]) -> str | None:
        """Why the trainer's parameters cannot be views of vLLM's tensors; None where they can."""
        for name, view in self.views():
            if name not in parameters:
                return f"{name} is not a parameter but computed from several (an adapter's merge)"
            parameter = parameters[name]
            if parameter.shape != view.shape:
                return f"the engine holds a slice of {name}"
            if parameter.dtype != view.dtype:
                return f"the trainer's weights are {parameter.dtype}, the engine's {view.dtype}"
            if view.is_inference() or not view.is_contiguous():
                return f"the engine's {name} cannot be trained in place"
        return None

    @torch.no_grad()
    def push(self) -> int:
        """Brings the engine's weights up to the trainer's; the number of bytes copied. EngineError
        where shared weights no longer are.
        """
        views = dict(self.views())
        if not self.is_alias:
            for name, tensor in self._own_weights():
                views[name].copy_(tensor, non_blocking=True)
            return sum(view.nbytes for view in views.values())
        for name, tensor in self._own_weights():
            if tensor.data_ptr() != views[name].data_ptr():
                raise EngineError(
                    f"the trainer's {name} no longer shares memory with the engine's: something "
                    "replaced one of them; use rollout.vllm.sync: copy"
                )
        return 0

    def engine_fingerprint(self) -> Fingerprint:
        return fingerprint(dict(self.views()))

    def trainer_fingerprint(self) -> Fingerprint:
        return fingerprint(dict(self._own_weights()), self._dtypes)

"""The trainer's weights in vLLM's model: where each tensor is, and the ways to keep them the same.

alias   the trainer's parameters are views of vLLM's tensors: a sync copies nothing.
copy    into those views, all tensors at once, rounded to the engine's type.
reload  vLLM's own loader, tensor by tensor.

vLLM fuses q, k, v and gate, up into one tensor each, rows under rows. Where a tensor lies is worked
out from the names and sizes here, and proven once, bit by bit, against what vLLM's own loader
wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from vibelite.errors import EngineError, RecipeError
from vibelite.rollout.fingerprint import Fingerprint, fingerprint

SyncWay = Literal["alias", "copy", "reload", "adapter"]
WeightsIterator = Iterable[tuple[str, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Location:
    """`rows` rows of vLLM's parameter `parameter`, from row `start`."""

    parameter: str
    start: int
    rows: int


def locate(
    shapes: Mapping[str, torch.Size], fused: Mapping[str, list[str]], engine_names: Iterable[str]
) -> dict[str, Location]:
    """Where each of the trainer's tensors, given by name and shape, lies in vLLM's model.

    `fused` is the model's `packed_modules_mapping`, such as qkv_proj -> [q_proj, k_proj, v_proj].
    EngineError names a tensor that vLLM does not have.
    """
    parts = {part: (whole, names) for whole, names in fused.items() for part in names}
    known = set(engine_names)
    locations = {}
    for name, shape in shapes.items():
        words = name.split(".")
        place = next((i for i, word in enumerate(words) if word in parts), None)
        start, target = 0, name
        if place is not None and name not in known:
            whole, names = parts[words[place]]
            target = _with_word(words, place, whole)
            before = names[: names.index(words[place])]
            start = sum(shapes[_with_word(words, place, part)][0] for part in before)
        if target not in known:
            raise EngineError(
                f"vLLM's model has no tensor for the trainer's {name}; this architecture needs "
                "rollout.engine: transformers"
            )
        locations[name] = Location(target, start, shape[0])
    return locations


def _with_word(words: list[str], place: int, word: str) -> str:
    return ".".join([*words[:place], word, *words[place + 1 :]])


class WeightSync:
    """Keeps the weights of a vLLM model those of the trainer's parameters.

    `weights` yields the trainer's tensors by their Hugging Face names, whenever they are asked for;
    `reload` is vLLM's way to load again.
    """

    def __init__(
        self,
        model: Any,
        weights: Callable[[], WeightsIterator],
        reload: Callable[[WeightsIterator], object],
    ) -> None:
        self._model = model
        self._weights = weights
        self._reload = reload
        self.way: SyncWay = "reload"
        self.request = None
        """The adapter to sample with: none beside the weights."""
        shapes = {name: tensor.shape for name, tensor in weights()}
        self._locations = locate(shapes, model.packed_modules_mapping, self._parameters())
        self._dtypes = {name: view.dtype for name, view in self.views()}

    @property
    def dtype(self) -> torch.dtype:
        """In which the engine multiplies."""
        return next(iter(self._dtypes.values()))

    def _parameters(self) -> dict[str, torch.Tensor]:
        """vLLM's, by the names that they have without adapters."""
        named = self._model.named_parameters()
        return {name.replace(".base_layer.", "."): parameter for name, parameter in named}

    def views(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The trainer's tensors as they lie in vLLM's model now, by the trainer's names."""
        parameters = self._parameters()
        for name, location in self._locations.items():
            data = parameters[location.parameter].data
            yield name, data.narrow(0, location.start, location.rows)

    def load_first(self) -> None:
        """Loads by vLLM's own loader, and proves that every tensor is where `views` says."""
        self._model.load_weights(self._weights())
        self.require_equal()

    def require_equal(self) -> None:
        """EngineError where a tensor is not, bit by bit, where `views` says."""
        views = dict(self.views())
        for name, tensor in self._weights():
            view = views[name]
            if not torch.equal(view, tensor.detach().to(view.device, view.dtype)):
                raise EngineError(
                    f"vLLM keeps {name} in another layout than expected; this architecture needs "
                    "rollout.engine: transformers"
                )

    def alias(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        """Makes the trainer's parameters views of vLLM's tensors, whose values they hold already.

        From then on whatever changes one changes the other. RecipeError where they cannot be.
        """
        if reason := self.obstacle_to_alias(parameters):
            raise RecipeError(f"rollout.vllm.sync: alias is not possible: {reason}; use auto")
        for name, view in self.views():
            parameters[name].data = view
        self.way = "alias"

    def obstacle_to_alias(self, parameters: Mapping[str, torch.nn.Parameter]) -> str | None:
        """Why the trainer's parameters cannot be views of vLLM's tensors; None where they can."""
        for name, view in self.views():
            if name not in parameters:
                return f"{name} is not a parameter but computed from several (an adapter's merge)"
            parameter = parameters[name]
            if parameter.dtype != view.dtype:
                return f"the trainer's weights are {parameter.dtype}, the engine's {view.dtype}"
            if view.is_inference() or not view.is_contiguous():
                return f"the engine's {name} cannot be trained in place"
        return None

    @torch.no_grad()
    def push(self) -> int:
        """Brings the engine's weights up to the trainer's; the number of bytes copied.

        EngineError where weights that ought to be shared no longer are.
        """
        views = dict(self.views())
        match self.way:
            case "alias":
                for name, tensor in self._weights():
                    if tensor.data_ptr() != views[name].data_ptr():
                        raise EngineError(
                            f"the trainer's {name} no longer shares memory with the engine's: "
                            "something replaced one of them; use rollout.vllm.sync: copy"
                        )
                return 0
            case "copy":
                for name, tensor in self._weights():
                    views[name].copy_(tensor, non_blocking=True)
            case "reload":
                self._reload(self._weights())
        return sum(view.numel() * view.element_size() for view in views.values())

    def engine_fingerprint(self) -> Fingerprint:
        """Checksums of what the engine holds."""
        return fingerprint(dict(self.views()))

    def trainer_fingerprint(self) -> Fingerprint:
        """Checksums of what the engine ought to hold."""
        return fingerprint(dict(self._weights()), self._dtypes)

"""The trainer's adapter in vLLM: the frozen weights are loaded once, and a sync brings the factors
of the adapter alone.

It goes by files in the host's memory, which is vLLM's public way. vLLM keeps factors in tensors of
its own, `up` times the adapter's scale, with room for the largest rank it was told; what those hold
is what is checked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vibelite.errors import EngineError
from vibelite.models.adapter import (
    TRAINED,
    lora_layers,
    merged_weights,
    save_adapter,
    starting_weights,
)
from vibelite.models.policy import Policy
from vibelite.rollout.fingerprint import Fingerprint, fingerprint
from vibelite.rollout.vllm_weights import SyncWay, WeightsIterator, WeightSync

# vLLM knows adapters by these; whatever it cached under the name must go when the weights change.
NAME, NUMBER = "policy", 1
# The ranks that vLLM takes as the largest (0.26 to 0.30).
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def frozen_weights(policy: Policy) -> WeightsIterator:
    """What the trained adapter is added to, by names in a checkpoint without adapters."""
    with starting_weights(policy):
        yield from merged_weights(policy)


def write_frozen_weights(policy: Policy, directory: Path) -> None:
    """For vLLM to start with: once its layers are made for adapters, it cannot load any more."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in frozen_weights(policy)}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def adapter_arguments(policy: Policy) -> dict[str, Any]:
    """vLLM's arguments for this policy's adapter. EngineError for a rank that vLLM cannot hold."""
    rank = max(factors[0].shape[0] for factors in trained_factors(policy).values())
    room = next((largest for largest in RANKS if largest >= rank), None)
    if room is None:
        raise EngineError(
            f"adapter.rank is {rank}, and vLLM holds at most {RANKS[-1]}; lower it, or use "
            "rollout.vllm.sync: copy"
        )
    return {"enable_lora": True, "max_lora_rank": room, "max_loras": 1, "load_format": "auto"}


def trained_factors(policy: Policy) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Linear map -> down [r, inputs] and scale times up [outputs, r] of the trained adapter."""
    return {
        name: (
            layer.lora_A[TRAINED].weight.detach(),
            layer.lora_B[TRAINED].weight.detach() * layer.scaling[TRAINED],
        )
        for name, layer in lora_layers(policy)
        if TRAINED in layer.lora_A
    }


class AdapterSync:
    """Keeps the adapter that a vLLM applies the trainer's; its frozen weights are proven once."""

    way: SyncWay = "adapter"

    def __init__(self, llm: Any, model: Any, policy: Policy, directory: Path) -> None:
        from vllm.lora.request import LoRARequest  # pyright: ignore[reportMissingImports]

        self._llm, self._model, self._policy = llm, model, policy
        self._directory = directory / "adapter"
        self._directory.mkdir()
        self._frozen = WeightSync(model, lambda: frozen_weights(policy), lambda _: None)
        self._expected: Fingerprint = {}
        self.request = LoRARequest(NAME, NUMBER, str(self._directory))
        self._again = LoRARequest(NAME, NUMBER, str(self._directory), load_inplace=True)

    def load_first(self) -> None:
        """Proves that the frozen weights, which vLLM has loaded itself, are the trainer's."""
        self._frozen.require_equal()
        self._expected = self._frozen.trainer_fingerprint()

    def push(self) -> int:
        """Brings the adapter over; the number of bytes."""
        save_adapter(self._policy, self._directory)
        if not self._llm.llm_engine.add_lora(self._again):
            raise EngineError("vLLM did not take the adapter")
        return sum(down.nbytes + up.nbytes for down, up in trained_factors(self._policy).values())

    def engine_fingerprint(self) -> Fingerprint:
        held = self._frozen.engine_fingerprint()
        return held | fingerprint(dict(self._held_factors()))

    def trainer_fingerprint(self) -> Fingerprint:
        """The frozen weights cannot have changed: their checksums are those of the start."""
        dtype = self._frozen.dtype
        tensors = {}
        for name, (down, up) in trained_factors(self._policy).items():
            tensors |= {f"{name}.lora_A": down.to(dtype), f"{name}.lora_B": up.to(dtype)}
        return self._expected | fingerprint(tensors)

    def _held_factors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What vLLM multiplies by, in the trainer's names and shapes."""
        worker = self._llm.llm_engine.model_executor.driver_worker.worker
        slots = worker.model_runner.lora_manager._adapter_manager.lora_index_to_id
        if NUMBER not in slots:
            return
        slot, wanted = slots.index(NUMBER), trained_factors(self._policy)
        for name, module in self._model.named_modules():
            if not hasattr(module, "lora_a_stacked"):
                continue
            owner, _, last = name.rpartition(".")
            parts = self._model.packed_modules_mapping.get(last, [last])
            for part, downs, ups in zip(
                parts, module.lora_a_stacked, module.lora_b_stacked, strict=True
            ):
                if (place := f"{owner}.{part}") in wanted:
                    down, up = wanted[place]
                    yield f"{place}.lora_A", downs[slot, 0, : down.shape[0], : down.shape[1]]
                    yield f"{place}.lora_B", ups[slot, 0, : up.shape[0], : up.shape[1]]


def fastest_directory() -> str | None:
    """The host's memory where it is a directory; None = where temporary files go."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

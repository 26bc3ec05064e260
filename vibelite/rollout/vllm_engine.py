"""The vLLM engine: samples in the trainer's process, sleeps while the trainer works, and proves
that its weights are the trainer's.

How vLLM is started is in vllm_start.py, how weights are shared in vllm_weights.py, and what vLLM
must not change in this process in vllm_side_effects.py.
"""

from __future__ import annotations

import gc
import hashlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from vibelite.errors import EngineError
from vibelite.models.adapter import merged_weights
from vibelite.models.policy import Policy
from vibelite.rollout.engine import LengthMemory, SamplingSettings
from vibelite.rollout.fingerprint import Fingerprint, difference
from vibelite.rollout.vllm_side_effects import (
    has_process_group,
    isolated_random_state,
    isolated_settings,
    shut_down,
)
from vibelite.rollout.vllm_start import (
    VLLMSettings,
    has_work,
    model_of,
    resolved_sync,
    sampling_params,
    scheduler_of,
    slice_of,
    start_vllm,
)
from vibelite.rollout.vllm_weights import WeightSync
from vibelite.types import Completion

# A step that reads a prompt runs without its CUDA graph and takes twice as long (0.5B, 512
# sequences). Were every place filled as it falls free, half of all steps would be such steps.
STEPS_BETWEEN_PROMPTS = 16


@dataclass(slots=True)
class EngineState:
    """Which parts of an engine are in memory. Weights wake first, so that new ones can be pushed
    while the KV cache's memory still belongs to the trainer.
    """

    weights_are_awake: bool = True
    weights_are_pushed: bool = False
    """Not after they slept: then they are dropped."""
    kv_cache_is_awake: bool = True
    is_closed: bool = False

    def require_open(self) -> None:
        if self.is_closed:
            raise EngineError("the engine is closed; build another one")

    def require_all(self) -> None:
        """Before sampling."""
        self.require_open()
        parts = {
            "its weights are": self.weights_are_awake,
            "its weights were dropped": self.weights_are_pushed,
            "its KV cache is": self.kv_cache_is_awake,
        }
        if missing := [part for part, is_there in parts.items() if not is_there]:
            raise EngineError(
                f"the engine is asleep ({', '.join(missing)}); load its weights and wake it before "
                "generating"
            )


@dataclass(slots=True)
class _Counters:
    """What happened since `VLLMEngine.metrics` was last asked."""

    seconds: float = 0.0
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    sync: dict[str, float] = field(default_factory=dict)


class VLLMEngine:
    """Samples with vLLM on the policy's device; completions end with one of `settings.stop_ids`, or
    truncated: after `max_new_tokens`, or where they fill `settings.max_model_len`. Ranks that hold
    an engine together make the same calls, and read or close their streams at the same completions.
    """

    def __init__(self, policy: Policy, settings: VLLMSettings) -> None:
        self._policy = policy
        sync = resolved_sync(settings.sync, policy, settings.dtype, settings.tensor_parallel)
        self.settings = settings = replace(settings, sync=sync)
        self._state = EngineState()
        self._counters = _Counters()
        self._found_process_group = has_process_group()
        self._directory = TemporaryDirectory(prefix="vibelite-vllm-")
        self._synced: Fingerprint = {}
        self._weights_version = 0
        self._open: set[str] = set()
        self._requests: dict[str, Any] = {}
        self._num_streams = 0
        self._lengths = LengthMemory()
        device = policy.device
        if settings.sync == "alias":
            # The engine's weights take the place of the trainer's; never both on the device.
            torch.nn.Module.to(policy.model, "cpu")
        try:
            self._llm = start_vllm(policy, settings, Path(self._directory.name))
            self._weights = self._share_weights()
        finally:
            if settings.sync == "alias":
                torch.nn.Module.to(policy.model, device)
        self.load_weights(0)

    def _share_weights(self) -> WeightSync:
        weights = WeightSync(
            model_of(self._llm), partial(merged_weights, self._policy), slice_of(self.settings)
        )
        weights.load_first()
        if self.settings.sync == "alias":
            weights.alias(dict(self._policy.model.named_parameters()))
        return weights

    def load_weights(self, version: int) -> None:
        """Brings the engine's weights up to the policy's, wakes them before if they sleep, and
        compares both sides' checksums. EngineError where they differ.
        """
        self._state.require_open()
        self._drain()
        self._wake_weights()
        start = time.perf_counter()
        with isolated_random_state():
            num_bytes = self._weights.push()
        self._state.weights_are_pushed = True
        if not self._llm.llm_engine.reset_prefix_cache():
            raise EngineError("vLLM kept cached prefixes of the old weights: some are still in use")
        pushed = time.perf_counter()
        self._synced = self._weights.trainer_fingerprint()
        self._require(self._weights.engine_fingerprint())
        self._weights_version = version
        self._counters.sync = {
            "sync/seconds": pushed - start,
            "sync/check_seconds": time.perf_counter() - pushed,
            "sync/copied_bytes": float(num_bytes),
            f"sync/by_{self.settings.sync}": 1.0,
        }

    def sleep(self) -> None:
        """Frees the KV cache, and the engine's weights where it has its own; running completions
        are dropped.
        """
        self._state.require_open()
        self._drain()
        if not self.settings.sleeps or not self._state.kv_cache_is_awake:
            return
        with isolated_random_state():
            self._llm.sleep(level=1 if self._weights.is_alias else 2)
        self._state.kv_cache_is_awake = False
        if not self._weights.is_alias:
            self._state.weights_are_awake = self._state.weights_are_pushed = False

    def wake(self) -> None:
        """Undoes `sleep`: weights, then a push if they were dropped, then the KV cache."""
        self._state.require_open()
        self._wake_weights()
        if not self._state.weights_are_pushed:
            self.load_weights(self._weights_version)
        if not self._state.kv_cache_is_awake:
            # vLLM ignores a call that names anything awake; to it, shared weights slept too.
            tags = ["weights", "kv_cache"] if self._weights.is_alias else ["kv_cache"]
            with isolated_random_state():
                self._llm.wake_up(tags=tags)
            self._state.kv_cache_is_awake = True

    def _wake_weights(self) -> None:
        if not self._state.weights_are_awake:
            with isolated_random_state():
                self._llm.wake_up(tags=["weights"])
            self._state.weights_are_awake = True

    def close(self) -> None:
        """Ends the engine; shared weights stay with the trainer."""
        if self._state.is_closed:
            return
        self._drain()
        # vLLM unmaps what it frees. Where that sleeps, and so is unmapped already, this fails, and
        # its allocator then gives nothing to any later engine of this process.
        with suppress(RuntimeError, EngineError):
            self.wake()
        self._state.is_closed = True
        with isolated_random_state(), isolated_settings():
            shut_down(self._llm, keep_process_group=self._found_process_group)
        del self._llm, self._weights
        gc.collect()
        self._directory.cleanup()

    def metrics(self) -> dict[str, float]:
        """As `RolloutEngine.metrics`; shares are 0..1."""
        counted, self._counters = self._counters, _Counters()
        metrics = dict(counted.sync)
        if counted.tokens:
            metrics |= {
                "rollout/tokens_per_second": counted.tokens / counted.seconds,
                "rollout/preemptions": float(counted.preemptions),
                "rollout/prefix_hit_share": counted.cached_tokens / counted.prompt_tokens,
            }
        return metrics

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        *,
        seed: int,
        skip: Collection[tuple[int, int]] = (),
    ) -> Iterator[tuple[int, int, Completion]]:
        """As `RolloutEngine.stream`, the longest expected first, so that few completions run alone
        at the end; samples of a prompt share its cached prefix. Before the first token both sides'
        weights are compared with what was last synced.
        """
        self._state.require_all()
        if self._llm.llm_engine.is_sleeping():
            raise EngineError("vLLM is asleep (its KV cache is) though it was woken")
        self._check_prompts(prompts)
        self._check_weights()
        self._drain()
        self._num_streams += 1
        expected = self._lengths.expected(prompts)
        pairs = {
            f"{self._num_streams}-{prompt}-{sample}": (prompt, sample)
            for prompt in sorted(range(len(prompts)), key=lambda index: -expected[index])
            for sample in range(settings.num_completions)
            if (prompt, sample) not in skip
        }
        waiting = iter(pairs.items())

        def admit() -> None:
            free = self.settings.max_sequences - len(self._open)
            for request, (prompt, sample) in islice(waiting, free):
                self._submit(request, prompts[prompt], settings, _seed(seed, prompt, sample))
            self._count_preemptions()

        try:
            for output in self._outputs(admit):
                prompt, sample = pairs[output.request_id]
                yield prompt, sample, self._completion(output, settings)
        finally:
            self._drain()
            self._count_preemptions()

    def _check_prompts(self, prompts: Sequence[Sequence[int]]) -> None:
        window = self.settings.max_model_len
        for prompt in prompts:
            if not prompt:
                raise EngineError("a prompt has no tokens; check the chat template of the model")
            if len(prompt) >= window:
                raise EngineError(
                    f"a prompt has {len(prompt)} tokens and leaves no room in the window of "
                    f"{window}; drop it, or raise rollout.vllm.max_prompt_tokens"
                )

    def _check_weights(self) -> None:
        if self._weights.trainer_fingerprint() != self._synced:
            raise EngineError(
                "the trainer's weights have changed since the engine last took them over "
                f"(version {self._weights_version}): a sync was skipped; call load_weights after "
                "every update"
            )
        self._require(self._weights.engine_fingerprint())

    def _require(self, engine: Fingerprint) -> None:
        if wrong := difference(engine, self._synced):
            raise EngineError(f"{wrong} (weights version {self._weights_version})")

    def _submit(
        self, request: str, prompt: Sequence[int], settings: SamplingSettings, seed: int
    ) -> None:
        params = sampling_params(
            self.settings, settings.max_new_tokens, settings.temperature, settings.top_p, seed
        )
        self._llm.llm_engine.add_request(request, {"prompt_token_ids": list(prompt)}, params)
        self._open.add(request)

    def _outputs(self, admit: Callable[[], None]) -> Iterator[Any]:
        """Requests as vLLM finishes them; `admit` submits as many as there is room for."""
        engine, num_steps = self._llm.llm_engine, 0
        while True:
            start, finished = time.perf_counter(), []
            with isolated_random_state():  # once for many steps: it costs a tenth of a millisecond
                while not finished:
                    if num_steps % STEPS_BETWEEN_PROMPTS == 0 or not self._open:
                        admit()
                    if not self._open:
                        return
                    if not engine.has_unfinished_requests():
                        raise EngineError(f"vLLM lost {len(self._open)} requests")
                    finished = [output for output in engine.step() if output.finished]
                    num_steps += 1
            self._counters.seconds += time.perf_counter() - start
            self._open -= {output.request_id for output in finished}
            yield from finished

    def _count_preemptions(self) -> None:
        """Of the requests that left vLLM since the last call. They are read of the requests: vLLM's
        own statistics cost time at every token.
        """
        before, self._requests = self._requests, dict(scheduler_of(self._llm).requests)
        left = (request for name, request in before.items() if name not in self._requests)
        self._counters.preemptions += sum(request.num_preemptions for request in left)

    def _completion(self, output: Any, settings: SamplingSettings) -> Completion:
        (sampled,) = output.outputs
        token_ids = tuple(sampled.token_ids)
        if sampled.finish_reason not in ("stop", "length"):
            raise EngineError(f"vLLM ended a completion with {sampled.finish_reason!r}")
        greedy = settings.temperature == 0  # vLLM reports those at temperature 1
        logprobs = (0.0,) * len(token_ids) if greedy else tuple(sampled.logprobs.logprobs)
        assert len(logprobs) == len(token_ids), "one log-prob for each token"
        counted = self._counters
        counted.tokens += len(token_ids)
        counted.prompt_tokens += len(output.prompt_token_ids)
        counted.cached_tokens += output.num_cached_tokens or 0
        self._lengths.learn(output.prompt_token_ids, len(token_ids))
        (text,) = self._policy.tokenizer.batch_decode([list(token_ids)], skip_special_tokens=True)
        return Completion(token_ids, logprobs, sampled.finish_reason, text, self._weights_version)

    def _drain(self) -> None:
        """Ends requests that a closed stream left running, and the step that vLLM began ahead."""
        with isolated_random_state():
            if self._open:
                self._llm.llm_engine.abort_request(sorted(self._open))
                self._open.clear()
            while has_work(self._llm):
                self._llm.llm_engine.step()


def _seed(seed: int, prompt: int, sample: int) -> int:
    """The completion's own seed, below 2^63; it does not depend on what else is sampled."""
    digest = hashlib.blake2b(f"{seed} {prompt} {sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1

"""The protocol of rollout engines and the settings of one sampling call. Each engine is a file of
its own next to this one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from vibelite.types import Completion


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How to sample. temperature 0 is greedy; top_p 1 samples the whole distribution (required
    while training).
    """

    num_completions: int
    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0


class RolloutEngine(Protocol):
    """Samples completions from the policy's current weights, as a function of (weights, prompts,
    settings, seed): the same call gives the same completions, in any order.
    """

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        *,
        seed: int,
        skip: Collection[tuple[int, int]] = (),
    ) -> Iterator[tuple[int, int, Completion]]:
        """Yields (prompt, sample, completion) as completions end, G for each of the P prompts of
        token ids; those under way when the iterator is closed are dropped.

        The (prompt, sample) pairs in `skip` are not sampled, and the others come out as if they
        were: an interrupted call is completed exactly.
        """
        ...

    def load_weights(self, version: int) -> None:
        """Takes over the policy's weights; completions sampled from now on carry `version`."""
        ...

    def sleep(self) -> None:
        """Frees what training needs more; `generate` is refused until `wake`."""
        ...

    def wake(self) -> None:
        """Undoes `sleep`."""
        ...

    def close(self) -> None:
        """Frees everything; the engine cannot be used afterwards."""
        ...

    def metrics(self) -> dict[str, float]:
        """What was measured since the last call, for StepRecord: rollout/..., sync/..."""
        ...


def generate(
    engine: RolloutEngine,
    prompts: Sequence[Sequence[int]],
    settings: SamplingSettings,
    *,
    seed: int,
) -> list[list[Completion]]:
    """All completions of `engine.stream`: G for each prompt, in order."""
    completions: list[dict[int, Completion]] = [{} for _ in prompts]
    for prompt, sample, completion in engine.stream(prompts, settings, seed=seed):
        completions[prompt][sample] = completion
    return [[ended[sample] for sample in range(settings.num_completions)] for ended in completions]


@dataclass(slots=True)
class LengthMemory:
    """How long completions have been, by prompt: what takes longest is to be sampled first."""

    _means: dict[bytes, float] = field(default_factory=dict)

    def expected(self, prompts: Sequence[Sequence[int]]) -> list[float]:
        """Tokens of a completion of each prompt; of one never sampled the mean of all prompts."""
        usual = sum(self._means.values()) / len(self._means) if self._means else 0.0
        return [self._means.get(_digest(prompt), usual) for prompt in prompts]

    def learn(self, prompt: Sequence[int], num_tokens: int) -> None:
        """Halfway from what was known to a completion that had `num_tokens`."""
        key = _digest(prompt)
        self._means[key] = 0.5 * (self._means.get(key, float(num_tokens)) + num_tokens)


def _digest(prompt: Sequence[int]) -> bytes:
    return hashlib.blake2b(repr(tuple(prompt)).encode(), digest_size=8).digest()

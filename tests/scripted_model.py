"""A model that a script plays: what the engine samples is a function of question and sample. All
else is real: the tokens, and their log-probabilities under the policy.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from vibelite.models.policy import Policy
from vibelite.rollout.engine import SamplingSettings
from vibelite.rollout.transformers_engine import TransformersEngine
from vibelite.types import Completion


class Killed(BaseException):
    """Stands for a SIGKILL between two completions."""


class ScriptedModel:
    """`reply(question, sample)` is the text of a completion. After `kill_after` of them the process
    "dies", unless that is None.
    """

    def __init__(self, reply: Callable[[str, int], str]) -> None:
        self.settings: list[SamplingSettings] = []
        """Of each completion so far."""
        self.seeds: list[int] = []
        self.engines: list[Any] = []
        """Of each call."""
        self.kill_after: int | None = None
        self.policy: Any = None
        """Whose turn it is."""
        self._reply = reply

    @property
    def asked(self) -> int:
        return len(self.settings)

    def play(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Puts the script in the place of every engine's sampling. The last sample of a problem
        comes first, for engines finish them in any order.
        """

        def stream(
            engine: Any, prompts: Any, settings: Any, *, seed: int, skip: Any = ()
        ) -> Iterator[tuple[int, int, Completion]]:
            self.seeds.append(seed)
            self.engines.append(engine)
            self.policy = engine._policy
            for place, prompt in enumerate(prompts):
                for sample in reversed(range(settings.num_completions)):
                    if (place, sample) not in skip:
                        if self.asked == self.kill_after:
                            raise Killed
                        self.settings.append(settings)
                        yield place, sample, self._complete(engine._policy, prompt, sample)

        monkeypatch.setattr(TransformersEngine, "stream", stream)

    def _complete(self, policy: Policy, prompt: Sequence[int], sample: int) -> Completion:
        question = str(policy.tokenizer.decode(list(prompt)))
        text = self._reply(question, sample)
        tokens = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
        logprobs = logprobs_of(policy.model, list(prompt), tokens)
        return Completion(tuple(tokens), logprobs, "stop", text)


@torch.no_grad()
def logprobs_of(model: Any, prompt: list[int], tokens: list[int]) -> tuple[float, ...]:
    """As if the policy had sampled the tokens: training refuses what another policy said."""
    logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    logprobs = logits.float().log_softmax(-1)
    return tuple(logprobs.gather(-1, torch.tensor(tokens)[:, None])[:, 0].tolist())

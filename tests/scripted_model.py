"""A model that a script plays: what the engine samples is a function of question and sample."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from vibelite.rollout.transformers_engine import TransformersEngine
from vibelite.types import Completion


class Killed(BaseException):
    """Stands for a SIGKILL between two completions."""


class ScriptedModel:
    """`reply(question, sample)` is the text of a completion; `asked` counts them, and after
    `kill_after` of them the process "dies", unless that is None.
    """

    def __init__(self, reply: Callable[[str, int], str]) -> None:
        self.asked = 0
        self.kill_after: int | None = None
        self._reply = reply

    def play(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Puts the script in the place of every engine's sampling."""

        def stream(
            engine: Any, prompts: Any, settings: Any, *, seed: int, skip: Any = ()
        ) -> Iterator[tuple[int, int, Completion]]:
            for place, prompt in enumerate(prompts):
                question = engine._policy.tokenizer.decode(prompt)
                for sample in range(settings.num_completions):
                    if (place, sample) not in skip:
                        yield place, sample, self._complete(question, sample)

        monkeypatch.setattr(TransformersEngine, "stream", stream)

    def _complete(self, question: str, sample: int) -> Completion:
        if self.asked == self.kill_after:
            raise Killed
        self.asked += 1
        return Completion((1,), (-1.0,), "stop", self._reply(question, sample))

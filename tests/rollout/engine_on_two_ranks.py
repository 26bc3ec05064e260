"""What each of two processes that hold one vLLM engine together does and finds, as JSON in the
directory that is given: run by test_vllm_ranks.py.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from tests.rollout.engines import PROMPTS, policy_for_vllm, vllm_engine
from tests.rollout.test_vllm_engine import mismatch
from vibelite.errors import EngineError
from vibelite.models.policy import Policy
from vibelite.ranks.join import joined_world
from vibelite.rollout.engine import SamplingSettings, generate
from vibelite.rollout.shared_engine import SharedEngine
from vibelite.rollout.vllm_engine import VLLMEngine
from vibelite.types import Completion

SETTINGS = SamplingSettings(3, 20)
STALE = "model.layers.1.mlp.down_proj.weight"


def tokens_of(groups: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[one.token_ids for one in group] for group in groups]


def sampled(policy: Policy, engine: VLLMEngine) -> dict[str, Any]:
    groups = generate(engine, PROMPTS, SETTINGS, seed=4)
    apart = mismatch(policy, engine)
    return {"tokens": tokens_of(groups), "max_abs": apart["mismatch/max_abs"]}


def plant_stale_slice(engine: VLLMEngine) -> None:
    """The next push leaves one tensor as it was, on this rank alone."""
    weights = engine._weights
    kept = dict(weights.views())[STALE].clone()
    push = weights.push

    @torch.no_grad()
    def pushing() -> int:
        copied = push()
        dict(weights.views())[STALE].copy_(kept)
        return copied

    weights.push = pushing


def main(directory: Path, head: str) -> None:
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with joined_world(120.0) as world:
        policy = policy_for_vllm()
        if head == "own":
            policy.model.config.tie_word_embeddings = False
            policy.model.lm_head.weight = torch.nn.Parameter(policy.head.weight.detach().roll(1, 0))
        engine = vllm_engine(policy, tensor_parallel=2)
        found["held"] = {name: list(view.shape) for name, view in engine._weights.views()}
        found["first"] = sampled(policy, engine)

        shared = SharedEngine(engine, world, 3, nullcontext, tensor_parallel=2)

        def abandon_then_sample() -> Any:
            stream = shared.stream(PROMPTS, SETTINGS, seed=4)
            next(stream)
            stream.close()
            return tokens_of(generate(shared, PROMPTS, SETTINGS, seed=4))

        found["by units"] = world.from_leader(abandon_then_sample, meanwhile=shared.help)

        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter.mul_(1.2)
        engine.load_weights(1)
        found["second"] = sampled(policy, engine)
        found["sum of ranks"] = world.norm(torch.tensor(1.0)).square().item()

        if world.rank == 1:
            plant_stale_slice(engine)
        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter.mul_(0.9)
        try:
            engine.load_weights(2)
            found["stale"] = None
        except EngineError as error:
            found["stale"] = str(error)
        engine.close()
        (directory / f"{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

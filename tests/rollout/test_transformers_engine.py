"""What only the transformers engine promises; what every engine does is in
test_engine_contract.py.
"""

from typing import Any

import torch

from tests.policies import tiny_policy
from vibelite.rollout.engine import SamplingSettings, generate
from vibelite.rollout.transformers_engine import TransformersEngine

PROMPTS = [[10, 11, 12], [20, 21, 22, 23, 24, 25, 26, 27], [30]]


def make_engine(policy=None, max_sequences=256):
    policy = policy or tiny_policy()
    return policy, TransformersEngine(
        policy, stop_ids=[40, 41, 42, 43, 44], max_sequences=max_sequences
    )


def test_neighbours_and_padding_do_not_change_greedy_completions():
    _, engine = make_engine()
    settings = SamplingSettings(1, 16, temperature=0)
    together = generate(engine, PROMPTS, settings, seed=0)
    alone = [generate(engine, [prompt], settings, seed=0)[0] for prompt in PROMPTS]
    assert [group[0].token_ids for group in together] == [group[0].token_ids for group in alone]


def test_greedy_completions_are_transformers_own():
    policy, engine = make_engine()
    settings = SamplingSettings(1, 16, temperature=0)
    for prompt, (completion,) in zip(
        PROMPTS, generate(engine, PROMPTS, settings, seed=0), strict=True
    ):
        reference: Any = policy.model.generate
        output = reference(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False, max_new_tokens=16, eos_token_id=[40, 41, 42, 43, 44],
        )  # fmt: skip
        assert output[0, len(prompt) :].tolist() == list(completion.token_ids)


def test_chunks_cover_all_prompts_in_order():
    _, engine = make_engine(max_sequences=2)
    settings = SamplingSettings(2, 6, temperature=0)
    _, whole = make_engine()
    assert generate(engine, PROMPTS, settings, seed=0) == generate(whole, PROMPTS, settings, seed=0)


def test_samples_skipped_in_some_chunks_leave_the_others_as_they_are():
    _, engine = make_engine(max_sequences=3)
    settings, skip = SamplingSettings(3, 12), {(0, 1), (1, 0), (1, 1), (1, 2), (2, 2)}
    everything = {(p, s): c.token_ids for p, s, c in engine.stream(PROMPTS, settings, seed=1)}
    rest = {(p, s): c.token_ids for p, s, c in engine.stream(PROMPTS, settings, seed=1, skip=skip)}
    assert rest == {pair: ids for pair, ids in everything.items() if pair not in skip}

"""The contract of a rollout engine: honest log-probs, right stops, repeatable samples."""

from collections import Counter
from typing import Any

import pytest
import torch

from tests.policies import tiny_policy
from vibelite.data.batching import TrainingSequence, pack
from vibelite.errors import EngineError
from vibelite.rollout.engine import SamplingSettings, generate
from vibelite.rollout.transformers_engine import TransformersEngine

PROMPTS = [[10, 11, 12], [20, 21, 22, 23, 24, 25, 26, 27], [30]]


def make_engine(policy=None, max_sequences=256):
    policy = policy or tiny_policy()
    return policy, TransformersEngine(
        policy, stop_ids=[40, 41, 42, 43, 44], max_sequences=max_sequences
    )


def test_sampler_log_probs_are_the_policys():
    policy, engine = make_engine()
    settings = SamplingSettings(num_completions=4, max_new_tokens=30, temperature=0.8)
    for prompt, completions in zip(
        PROMPTS, generate(engine, PROMPTS, settings, seed=1), strict=True
    ):
        for completion in completions:
            tokens = [*prompt, *completion.token_ids]
            mask = [False] * len(prompt) + [True] * len(completion.token_ids)
            logprobs, _ = policy.logprobs(
                pack([TrainingSequence(tokens, mask)], torch.device("cpu")), temperature=0.8
            )
            expected = torch.tensor(completion.sampler_logprobs)
            torch.testing.assert_close(logprobs.detach(), expected, rtol=0, atol=5e-5)


def test_the_same_seed_repeats_and_another_differs():
    _, engine = make_engine()
    settings = SamplingSettings(3, 12)
    assert generate(engine, PROMPTS, settings, seed=1) == generate(
        engine, PROMPTS, settings, seed=1
    )
    assert generate(engine, PROMPTS, settings, seed=1) != generate(
        engine, PROMPTS, settings, seed=2
    )


def test_completions_of_a_group_differ():
    _, engine = make_engine()
    (group,) = generate(engine, [PROMPTS[0]], SamplingSettings(8, 12), seed=0)
    assert len({completion.token_ids for completion in group}) == 8


def test_stop_and_truncation_are_told_apart():
    _, engine = make_engine()
    groups = generate(engine, PROMPTS, SamplingSettings(64, 20), seed=3)
    reasons = Counter()
    for completion in (completion for group in groups for completion in group):
        inside, last = completion.token_ids[:-1], completion.token_ids[-1]
        assert not set(inside) & {40, 41, 42, 43, 44}
        if completion.finish_reason == "stop":
            assert last in {40, 41, 42, 43, 44}
        else:
            assert len(completion.token_ids) == 20
        reasons[completion.finish_reason] += 1
    assert min(reasons["stop"], reasons["length"]) > 0, "the case must contain both"


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


def test_a_weight_change_changes_the_completions_and_the_version():
    policy, engine = make_engine()
    settings = SamplingSettings(2, 12)
    before = generate(engine, PROMPTS, settings, seed=0)
    with torch.no_grad():
        policy.head.mul_(-1)
    engine.load_weights(7)
    after = generate(engine, PROMPTS, settings, seed=0)
    assert before != after
    assert {completion.weights_version for group in after for completion in group} == {7}


def test_a_sleeping_engine_refuses_and_a_woken_one_repeats():
    _, engine = make_engine()
    settings = SamplingSettings(1, 4)
    before = generate(engine, PROMPTS, settings, seed=0)
    engine.sleep()
    with pytest.raises(EngineError, match="asleep"):
        generate(engine, PROMPTS, settings, seed=0)
    engine.wake()
    assert generate(engine, PROMPTS, settings, seed=0) == before


def test_an_empty_prompt_is_refused():
    _, engine = make_engine()
    with pytest.raises(EngineError, match="no tokens"):
        generate(engine, [[]], SamplingSettings(1, 4), seed=0)


@pytest.mark.parametrize("max_sequences", [256, 3])
def test_skipped_samples_are_left_out_and_the_others_come_out_the_same(max_sequences):
    _, engine = make_engine(max_sequences=max_sequences)
    settings = SamplingSettings(3, 12)
    everything = {
        (prompt, sample): completion.token_ids
        for prompt, sample, completion in engine.stream(PROMPTS, settings, seed=1)
    }
    skip = {(0, 1), (1, 0), (1, 1), (1, 2), (2, 2)}
    rest = {
        (prompt, sample): completion.token_ids
        for prompt, sample, completion in engine.stream(PROMPTS, settings, seed=1, skip=skip)
    }
    assert rest == {pair: ids for pair, ids in everything.items() if pair not in skip}
    assert not list(engine.stream(PROMPTS, settings, seed=1, skip=everything))

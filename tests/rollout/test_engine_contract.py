"""What every rollout engine promises, whatever it samples with. The real vLLM is asked too, where
it is installed: make test-vllm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

from tests.rollout.engines import PROMPTS, STOP_IDS, policy_for_vllm, vllm_engine
from vibelite.data.batching import TrainingSequence, pack
from vibelite.errors import EngineError
from vibelite.models.policy import Policy
from vibelite.rollout.engine import RolloutEngine, SamplingSettings, generate
from vibelite.rollout.transformers_engine import TransformersEngine
from vibelite.types import Completion


@dataclass(frozen=True, slots=True)
class Case:
    policy: Policy
    engine: RolloutEngine


@pytest.fixture(
    scope="module", params=["transformers", pytest.param("vllm", marks=pytest.mark.vllm)]
)
def shared_case(request: pytest.FixtureRequest) -> Iterator[Case]:
    policy = policy_for_vllm()
    if request.param == "vllm":
        engine: RolloutEngine = vllm_engine(policy)
    else:
        engine = TransformersEngine(policy, stop_ids=STOP_IDS, max_sequences=256)
    yield Case(policy, engine)
    engine.close()


@pytest.fixture
def case(shared_case: Case) -> Iterator[Case]:
    """An engine that is awake and in step with the policy; weights are put back afterwards."""
    before = {
        name: value.clone() for name, value in shared_case.policy.model.named_parameters()
    }  # fmt: skip
    yield shared_case
    with torch.no_grad():
        for name, parameter in shared_case.policy.model.named_parameters():
            parameter.copy_(before[name])
    shared_case.engine.load_weights(0)
    shared_case.engine.wake()


def logits_after_each_token(policy: Policy, token_ids: list[int]) -> torch.Tensor:
    """[T, V] by transformers alone, without the package's packing or head."""
    with torch.no_grad():
        return policy.model(
            input_ids=torch.tensor([token_ids]),
            attention_mask=torch.ones(1, 1, len(token_ids), len(token_ids)).tril().bool(),
        ).logits[0]


def require_policys_logprobs(
    policy: Policy, prompt: list[int], group: list[Completion], temperature: float = 1.0
) -> None:
    for completion in group:
        sequence = TrainingSequence([*prompt, *completion.token_ids], len(prompt))
        batch = pack([sequence], torch.device("cpu"))
        logprobs, _ = policy.logprobs(batch, temperature=temperature)
        expected = torch.tensor(completion.sampler_logprobs)
        torch.testing.assert_close(logprobs, expected, rtol=0, atol=5e-5)


def test_sampler_log_probs_are_the_policys(case: Case):
    settings = SamplingSettings(num_completions=4, max_new_tokens=30, temperature=0.8)
    groups = generate(case.engine, PROMPTS, settings, seed=1)
    for prompt, completions in zip(PROMPTS, groups, strict=True):
        require_policys_logprobs(case.policy, prompt, completions, 0.8)


def test_with_top_p_log_probs_are_those_of_what_was_kept(case: Case):
    settings = SamplingSettings(4, 12, temperature=1.3, top_p=0.6)
    (group,) = generate(case.engine, PROMPTS[:1], settings, seed=5)
    for completion in group:
        tokens = [*PROMPTS[0], *completion.token_ids]
        logits = logits_after_each_token(case.policy, tokens)[len(PROMPTS[0]) - 1 : -1]
        for row, token, logprob in zip(
            logits, completion.token_ids, completion.sampler_logprobs, strict=True
        ):
            probabilities = (row.double() / 1.3).softmax(0)
            ordered, indices = probabilities.sort(descending=True)
            kept = indices[ordered.cumsum(0) - ordered < 0.6]
            assert token in kept.tolist()
            expected = (probabilities[token] / probabilities[kept].sum()).log()
            assert logprob == pytest.approx(expected.item(), abs=1e-4)


def test_the_same_seed_repeats_and_another_differs(case: Case):
    settings = SamplingSettings(3, 12)
    first = generate(case.engine, PROMPTS, settings, seed=1)
    assert generate(case.engine, PROMPTS, settings, seed=1) == first
    assert generate(case.engine, PROMPTS, settings, seed=2) != first


def test_completions_of_a_group_differ(case: Case):
    (group,) = generate(case.engine, [PROMPTS[0]], SamplingSettings(8, 12), seed=0)
    assert len({completion.token_ids for completion in group}) == 8


def test_stop_and_truncation_are_told_apart(case: Case):
    groups = generate(case.engine, PROMPTS, SamplingSettings(64, 20), seed=3)
    reasons = Counter()
    for completion in (completion for group in groups for completion in group):
        inside, last = completion.token_ids[:-1], completion.token_ids[-1]
        assert not set(inside) & set(STOP_IDS)
        if completion.finish_reason == "stop":
            assert last in STOP_IDS
        else:
            assert len(completion.token_ids) == 20
        reasons[completion.finish_reason] += 1
    assert min(reasons["stop"], reasons["length"]) > 0, "the case must contain both"


def test_greedy_completions_take_the_likeliest_token_at_log_prob_zero(case: Case):
    settings = SamplingSettings(1, 16, temperature=0)
    for prompt, (completion,) in zip(
        PROMPTS, generate(case.engine, PROMPTS, settings, seed=0), strict=True
    ):
        logits = logits_after_each_token(case.policy, [*prompt, *completion.token_ids])
        likeliest = logits[len(prompt) - 1 : -1].argmax(dim=-1)
        assert likeliest.tolist() == list(completion.token_ids)
        assert set(completion.sampler_logprobs) == {0.0}


def test_completions_come_as_they_end(case: Case):
    stream = case.engine.stream(PROMPTS, SamplingSettings(32, 24), seed=3)
    lengths = [len(completion.token_ids) for _, _, completion in stream]
    assert len(lengths) == 96
    assert lengths[0] < lengths[-1], "the case must contain short and long ones"
    assert all(before <= after for before, after in pairwise(lengths))


def test_what_is_left_of_a_closed_stream_is_dropped(case: Case):
    settings = SamplingSettings(8, 24)
    whole = generate(case.engine, PROMPTS, settings, seed=3)
    stream = case.engine.stream(PROMPTS, settings, seed=3)
    prompt, sample, completion = next(stream)
    stream.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert completion == whole[prompt][sample]
    assert generate(case.engine, PROMPTS, settings, seed=3) == whole


def test_after_a_sync_the_new_weights_sample_and_no_prefix_of_old_ones_is_reused(case: Case):
    prompt = [*range(50, 114)]  # two blocks of vLLM's cache
    settings = SamplingSettings(2, 8)
    (before,) = generate(case.engine, [prompt], settings, seed=0)
    with torch.no_grad():
        for parameter in case.policy.model.parameters():
            parameter.mul_(0.9)
    case.engine.load_weights(7)
    (after,) = generate(case.engine, [prompt], settings, seed=0)
    assert [one.token_ids for one in before] != [one.token_ids for one in after]
    assert {one.weights_version for one in after} == {7}
    require_policys_logprobs(case.policy, prompt, after)


def test_a_sleeping_engine_refuses_and_a_woken_one_repeats(case: Case):
    settings = SamplingSettings(1, 4)
    before = generate(case.engine, PROMPTS, settings, seed=0)
    case.engine.sleep()
    with pytest.raises(EngineError, match="asleep"):
        generate(case.engine, PROMPTS, settings, seed=0)
    case.engine.wake()
    assert generate(case.engine, PROMPTS, settings, seed=0) == before


def test_an_empty_prompt_is_refused(case: Case):
    with pytest.raises(EngineError, match="no tokens"):
        generate(case.engine, [[]], SamplingSettings(1, 4), seed=0)


def test_skipped_samples_are_left_out_and_the_others_come_out_the_same(case: Case):
    settings = SamplingSettings(3, 12)
    everything = {
        (prompt, sample): completion.token_ids
        for prompt, sample, completion in case.engine.stream(PROMPTS, settings, seed=1)
    }
    skip = {(0, 1), (1, 0), (1, 1), (1, 2), (2, 2)}
    rest = {
        (prompt, sample): completion.token_ids
        for prompt, sample, completion in case.engine.stream(PROMPTS, settings, seed=1, skip=skip)
    }
    assert rest == {pair: ids for pair, ids in everything.items() if pair not in skip}
    assert not list(case.engine.stream(PROMPTS, settings, seed=1, skip=everything))


def test_metrics_are_of_what_was_sampled_since_they_were_last_asked_for(case: Case):
    case.engine.metrics()
    assert "rollout/tokens_per_second" not in case.engine.metrics()
    generate(case.engine, PROMPTS, SamplingSettings(3, 12), seed=1)
    assert case.engine.metrics()["rollout/tokens_per_second"] > 0
    assert "rollout/tokens_per_second" not in case.engine.metrics()

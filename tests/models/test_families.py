"""Every family in docs/models.md: log-probs and gradients are those of the model's own forward."""

import pytest
import torch

from tests.models.families import ALONE, DOCS, FAMILIES, REFUSED, random_model, table
from tests.policies import random_sequences, tiny_policy
from vibelite.data.batching import TrainingSequence, pack
from vibelite.errors import RecipeError
from vibelite.models import attention
from vibelite.models.agreement import agreeing
from vibelite.models.attention import ATTENTION, packed_layout
from vibelite.models.policy import Policy
from vibelite.rollout.engine import SamplingSettings, generate
from vibelite.rollout.transformers_engine import TransformersEngine

CPU = torch.device("cpu")
TOKENIZER = tiny_policy().tokenizer


def policy_of(family: str, dtype: torch.dtype = torch.float32) -> Policy:
    return agreeing(Policy(random_model(family, dtype), TOKENIZER))


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_and_gradients_are_those_of_the_models_own_logits(family):
    """At a temperature, against all logits by the model's `forward` and autograd."""
    policy, temperature = policy_of(family), 0.8
    assert policy.packs == (family not in ALONE)
    model = policy.model
    sequences = random_sequences(5, seed=1)
    model.set_attn_implementation("eager")
    logprobs, entropies = [], []
    for sequence in sequences:
        ids = torch.tensor([sequence.token_ids])
        logits = model(ids, use_cache=False).logits[0, :-1].double() / temperature
        trained = slice(sequence.num_prompt_tokens - 1, None)
        log_p = torch.log_softmax(logits, -1)[trained]
        logprobs.append(log_p.gather(1, ids[0, 1:, None][trained])[:, 0])
        entropies.append(-(log_p.exp() * log_p).sum(-1))
    expected = torch.cat(logprobs), torch.cat(entropies)
    (expected[0] + 0.3 * expected[1]).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.set_attn_implementation(ATTENTION)
    batch = pack(sequences, CPU)
    output = policy.token_loss(batch, lambda lp, en, rows: lp + 0.3 * en, temperature=temperature)
    for found in (policy.logprobs(batch, temperature=temperature), output[1:]):
        for got, want in zip(found, expected, strict=True):
            assert (got - want).abs().max() < 1e-4
    output.loss.backward()
    for name, parameter in model.named_parameters():
        want = gradients[name]
        assert (want is None) == (parameter.grad is None), name
        if want is not None and parameter.grad is not None:
            # A softmax knows nothing of a bias on keys: its gradient is 0, but for rounding.
            assert (parameter.grad - want).norm() <= 1e-4 * want.norm() + 1e-5, name


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_engine_samples_has_the_log_probs_of_the_trainer(family):
    policy = policy_of(family)
    engine = TransformersEngine(policy, stop_ids=[2], max_sequences=6)
    prompts = [list(range(20, 20 + length)) for length in (5, 11, 1)]
    groups = generate(engine, prompts, SamplingSettings(2, 12), seed=1)
    sequences = [
        TrainingSequence((*prompt, *c.token_ids), len(prompt), sampler_logprobs=c.sampler_logprobs)
        for prompt, group in zip(prompts, groups, strict=True)
        for c in group
    ]
    batch = pack(sequences, CPU)
    assert batch.sampler_logprobs is not None
    sampled = batch.sampler_logprobs[batch.completion_mask]
    assert (policy.logprobs(batch)[0] - sampled).abs().max() < 1e-4


@pytest.mark.parametrize("family", ["Gemma2", "FalconH1", "Qwen3Moe", "Qwen3_5Text", "GptOss"])
def test_bfloat16_is_judged_by_the_models_own_rounding(family):
    assert policy_of(family, torch.bfloat16).packs == (family not in ALONE)


@pytest.mark.parametrize("family", ["Llama", "Lfm2", "Qwen3Next"])
def test_a_policy_that_was_not_tried_packs_where_every_layer_is_attention(family):
    policy = Policy(random_model(family, torch.float32), TOKENIZER)
    assert policy.is_packed == (family == "Llama")


@pytest.mark.parametrize("family", REFUSED)
def test_a_model_that_would_be_trained_wrongly_is_refused_by_name(family):
    with pytest.raises(RecipeError, match=f"{family.removesuffix('Text')}.*{REFUSED[family][0]}"):
        policy_of(family)


@pytest.mark.parametrize(
    ("dtype", "scale", "message"),
    [
        (torch.float32, 1.001, "the head differs by up to [0-9.e-]+ nats"),
        (torch.bfloat16, 1.1, "the head differs"),
    ],
)
def test_a_head_that_differs_is_told_from_layers(monkeypatch, dtype, scale, message):
    monkeypatch.setattr("vibelite.models.policy.logit_scale", lambda config: scale)
    with pytest.raises(RecipeError, match=rf"Qwen2ForCausalLM \(qwen2\).*{message}"):
        policy_of("Qwen2", dtype)


def test_layers_that_differ_are_told_from_the_head(monkeypatch):
    forward = attention._attend_in_buckets
    monkeypatch.setattr(attention, "_attend_in_buckets", lambda *states: 1.001 * forward(*states))
    with pytest.raises(RecipeError, match="the layers differ.*packed.*for one at a time"):
        policy_of("Qwen2")


def test_sequences_that_see_each_other_go_one_at_a_time(monkeypatch):
    """Boundaries that are lost on the way, as where a loader replaces attention."""
    forward = attention._attend_in_buckets

    def as_one(query, key, value, layout, scores):
        return forward(query, key, value, packed_layout(layout.cu_seqlens[[0, -1]]), scores)

    monkeypatch.setattr(attention, "_attend_in_buckets", as_one)
    assert not policy_of("Qwen2").packs


def test_boundaries_reach_convolutions_that_take_them(monkeypatch):
    """Where a kernel goes by `seq_idx`, as on a GPU, sequences are packed."""
    from transformers.models.lfm2 import modeling_lfm2

    plain = modeling_lfm2.causal_conv1d_fn

    def by_sequence(hidden, weight, bias=None, activation=None, seq_idx=None):
        if seq_idx is None:
            return plain(hidden, weight, bias, activation)
        parts = [hidden[:, :, seq_idx[0] == place] for place in seq_idx.unique()]
        return torch.cat([plain(part, weight, bias, activation) for part in parts], 2)

    monkeypatch.setattr(modeling_lfm2, "causal_conv1d_fn", by_sequence)
    assert policy_of("Lfm2").packs


def test_the_model_is_left_as_it_was():
    policy = policy_of("Qwen2", torch.bfloat16)
    assert {p.dtype for p in policy.model.parameters()} == {torch.bfloat16}
    assert policy.model.config._attn_implementation == ATTENTION
    hooks = [m._forward_hooks or m._forward_pre_hooks for m in policy.model.modules()]
    assert not any(hooks)


def test_the_table_of_the_docs_is_that_of_the_tests():
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("|")] == table(), (
        "python -m tests.models.families prints it"
    )

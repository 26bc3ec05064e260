"""What a policy hands to its head, and that the head is the model's own."""

from functools import partial
from typing import Any

import pytest
import torch
import transformers

from tests.policies import random_sequences, tiny_policy
from vibelite.data.batching import TrainingSequence, pack
from vibelite.models import policy as module
from vibelite.models.attention import ATTENTION
from vibelite.models.policy import Policy
from vibelite.stages.sft import weighted_nll

CPU = torch.device("cpu")
SIZES = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
# What each family does to its logits, large enough to be seen.
HEADS: dict[str, dict[str, Any]] = {
    "Qwen2": {},
    "Llama": {},
    # Softcapped attention is another matter.
    "Gemma2": {"head_dim": 8, "final_logit_softcapping": 1.5, "attn_logit_softcapping": None},
    "Gemma3Text": {"head_dim": 8, "final_logit_softcapping": 1.5},
    "Granite": {"logits_scaling": 0.25},
    "HyperCLOVAX": {"logits_scaling": 4.0},
    "Cohere": {"logit_scale": 3.0},
    "Cohere2": {"logit_scale": 3.0},
    "FalconH1": {"lm_head_multiplier": 3.0, "mamba_d_ssm": 32, "mamba_n_heads": 4},
    "Phi": {},
}

# Their layers round to float32 whatever their type.
NORMS_IN_FLOAT32 = ("Gemma2", "Gemma3Text", "Cohere", "Cohere2")


@pytest.mark.parametrize("function", ["linear_logprobs", "linear_token_loss"])
def test_only_trained_tokens_reach_the_head(function, monkeypatch):
    seen = []

    def watch(call, *args):
        seen.append((call.num_tokens, call.targets.tolist()))
        return real(call, *args)

    real = getattr(module, function)
    monkeypatch.setattr(module, function, watch)
    batch = pack(random_sequences(6, seed=0), CPU)
    trained = batch.input_ids[batch.completion_mask]
    assert 0 < len(trained) < batch.num_tokens
    if function == "linear_logprobs":
        tiny_policy().logprobs(batch)
    else:
        weights = batch.token_weights[batch.completion_mask]
        tiny_policy().token_loss(batch, partial(weighted_nll, weights))
    assert seen == [(len(trained), trained.tolist())]


def random_model(family: str) -> Any:
    config = getattr(transformers, f"{family}Config")(**(SIZES | HEADS[family]))
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 or parameter is getattr(model.lm_head, "bias", None):
                parameter.normal_(0, 0.3, generator=generator)
    return model.eval()


def long_sequences(family: str) -> list[TrainingSequence]:
    """One for recurrent layers, which carry their state from one packed sequence to the next."""
    sequences = sorted(random_sequences(8), key=lambda sequence: len(sequence.token_ids))
    return sequences[-1:] if family == "FalconH1" else sequences[-3:]


@pytest.mark.parametrize("family", HEADS)
def test_log_probs_and_gradients_are_those_of_the_models_own_logits(family):
    """In float64, at a temperature, against all logits by the model's `forward` and autograd."""
    model, temperature = random_model(family), 0.8
    bound = 1e-5 if family in NORMS_IN_FLOAT32 else 1e-9
    sequences = long_sequences(family)
    batch = pack(sequences, CPU)
    logprobs, entropies = [], []
    for sequence in sequences:
        logits = model(torch.tensor([sequence.token_ids])).logits[0, :-1] / temperature
        trained = slice(sequence.num_prompt_tokens - 1, None)
        log_p = torch.log_softmax(logits, -1)[trained]
        targets = torch.tensor(sequence.token_ids[1:])[trained]
        logprobs.append(log_p.gather(1, targets[:, None])[:, 0])
        entropies.append(-(log_p.exp() * log_p).sum(-1))
    expected = torch.cat(logprobs), torch.cat(entropies)
    (expected[0] + 0.3 * expected[1]).sum().backward()
    parameters = dict(model.named_parameters())
    gradients = {name: parameter.grad for name, parameter in parameters.items()}
    model.zero_grad()
    model.set_attn_implementation(ATTENTION)
    policy = Policy(model, tiny_policy().tokenizer)
    output = policy.token_loss(batch, lambda lp, en, rows: lp + 0.3 * en, temperature=temperature)
    for found in (policy.logprobs(batch, temperature=temperature), output[1:]):
        for got, want in zip(found, expected, strict=True):
            assert (got - want).abs().max() < bound
    output.loss.backward()
    for name, parameter in parameters.items():
        want = gradients[name]
        assert (want is None) == (parameter.grad is None), name
        if want is not None:
            assert (parameter.grad - want).norm() <= bound * want.norm(), name

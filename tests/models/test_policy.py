"""What a policy hands to its head."""

from functools import partial

import pytest
import torch

from tests.policies import random_sequences, tiny_policy
from vibelite.data.batching import pack
from vibelite.models import policy as module
from vibelite.stages.sft import weighted_nll

CPU = torch.device("cpu")


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

"""The alarm that stops a run whose sampler is another policy, and what it advises before."""

import math

import pytest
import torch

from vibelite.algorithms.policy_loss import mismatch_metrics
from vibelite.errors import EngineError
from vibelite.stages.mgpo_metrics import require_agreement
from vibelite.stages.mismatch import advice


def test_a_step_at_the_limit_passes():
    metrics = mismatch_metrics(torch.tensor([0.1, -0.1, 0.2]))
    require_agreement(metrics, limit=metrics["mismatch/k3"])


@pytest.mark.parametrize("log_ratios", [[1.0, -1.0], [math.nan, 0.0], [math.inf, 0.0]])
def test_a_step_above_the_limit_or_without_a_number_stops_the_run(log_ratios):
    with pytest.raises(EngineError, match=r"max_mismatch_kl is 0\.05; no update was made"):
        require_agreement(mismatch_metrics(torch.tensor(log_ratios)), limit=0.05)


def test_the_next_finer_type_is_advised_where_rounding_is_noticeable():
    assert advice(0.001, "bfloat16", 0.05) == "bfloat16 agrees"
    assert advice(0.01, "bfloat16", 0.05) == "use training.dtype float16"
    assert advice(0.01, "float16", 0.05) == "use training.dtype float32"
    assert "another cause" in advice(0.01, "float32", 0.05)

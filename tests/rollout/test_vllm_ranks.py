"""One real vLLM engine on two processes, each with a slice of its weights, on a CPU over gloo."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.rollout.engine_on_two_ranks import STALE
from vibelite.ranks.launch import run_ranks

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("head", ["own", "tied"])
def test_two_ranks_hold_one_engine_together(head: str, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "tests.rollout.engine_on_two_ranks", str(tmp_path), head]
    assert run_ranks(2, program) == 0
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    # 284 rows of an embedding that vLLM pads to 320, half of the heads, half of the MLP.
    for name, shape, other in (
        ("embed_tokens.weight", [160, 128], [124, 128]),
        ("layers.0.self_attn.q_proj.weight", [64, 128], [64, 128]),
        ("layers.0.self_attn.k_proj.bias", [32], [32]),
        ("layers.0.self_attn.o_proj.weight", [128, 64], [128, 64]),
        ("layers.0.mlp.down_proj.weight", [128, 32], [128, 32]),
        ("norm.weight", [128], [128]),
    ):
        assert first["held"][f"model.{name}"] == shape
        assert second["held"][f"model.{name}"] == other
    # Both ranks sample the same, as the trainer would, before a sync and after.
    for moment in ("first", "second"):
        assert first[moment] == second[moment]
        assert 0 < first[moment]["max_abs"] <= 5e-5
    assert first["first"]["tokens"] != first["second"]["tokens"]
    # Unit by unit, after a stream that was given up.
    assert first["by units"] == second["by units"] == first["first"]["tokens"]
    assert first["sum of ranks"] == second["sum of ranks"] == pytest.approx(2)
    assert first["stale"] is None
    assert f"({STALE})" in second["stale"]

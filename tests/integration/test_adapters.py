"""The whole pipeline with adapters: small checkpoints, an ordinary export, the same bits after an
interruption.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.integration.test_pipeline import Interrupted, count_writes, run
from vibelite.models.adapter import WEIGHTS_NAME, is_adapter, read_adapter
from vibelite.models.load import load_policy
from vibelite.run_dir import read_jsonl

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = {
    "lora": ["adapter.kind=lora", "adapter.rank=2"],
    "qlora": ["adapter.kind=qlora", "adapter.rank=2"],
}
SHORT = [
    "stages.mgpo.num_steps=2",
    "stages.mgpo.checkpoint_every=1",
    "stages.mgpo.group_size=2",
    "stages.mgpo.updates_per_rollout=1",
]


def run_with(directory: Path, kind: str, *, until: str | None = None) -> None:
    if kind == "qlora":
        pytest.importorskip("bitsandbytes")
    run(directory, *KINDS[kind], *SHORT, until=until)


@pytest.fixture(scope="module", params=KINDS)
def finished(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    run_with(directory, request.param)
    return directory


def checkpoints(directory: Path, stage: str) -> list[Path]:
    (root,) = directory.glob(f"stages/*-{stage}/checkpoints")
    return sorted(path for path in root.iterdir() if path.is_dir())


def test_every_stage_leaves_adapters_and_the_export_is_an_ordinary_model(finished):
    summary = json.loads((finished / "summary.json").read_text())["results"]
    names = ["base", "sft", "probe-algebra", "probe-number", "tail-average", "fuse", "mgpo"]
    assert [row["stage"] for row in summary] == names
    for stage in ("sft", "fuse", "mgpo"):
        assert checkpoints(finished, stage)
        assert all(is_adapter(path) for path in checkpoints(finished, stage))
    assert not is_adapter(finished / "base") and not is_adapter(finished / "export")
    base = load_file(finished / "base" / "model.safetensors")
    export = load_file(finished / "export" / "model.safetensors")
    assert export.keys() == base.keys()
    changed = {name for name in base if not torch.equal(base[name], export[name])}
    assert changed == {name for name in base if "proj.weight" in name}


def test_a_checkpoint_holds_the_factors_alone(finished):
    for path in checkpoints(finished, "sft"):
        numbers = [tensor.numel() for tensor in load_file(path / WEIGHTS_NAME).values()]
        # Rank 2 times inputs and outputs: q, o and the MLP's three 16 + 16, k and v 16 + 8.
        assert len(numbers) == 14 and sum(numbers) == 2 * (5 * 32 + 2 * 24)
        others = {file.name for file in path.iterdir()} - {WEIGHTS_NAME}
        assert others == {"adapter_config.json", "base.json", "SHA256SUMS"}


def test_training_moves_the_adapters_of_both_stages(finished):
    for stage in ("sft", "mgpo"):
        last = read_adapter(checkpoints(finished, stage)[-1])
        assert all(factors.up.abs().max() > 0 for factors in last.factors.values())
    (path,) = finished.glob("stages/*-mgpo/steps.jsonl")
    rows = [row["metrics"] for row in read_jsonl(path)]
    # The reference is the stage's start: no distance from it before the first update, some after.
    assert rows[0]["policy/kl"] == pytest.approx(0.0, abs=1e-9) != rows[1]["policy/kl"]
    # The engine samples from the very module that is trained.
    assert all(row["mismatch/max_abs"] < 1e-4 for row in rows)


def test_the_export_alone_says_what_the_trained_policy_says(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(finished / "export")
    exported: Any = AutoModelForCausalLM.from_pretrained(finished / "export")
    policy = load_policy(checkpoints(finished, "mgpo")[-1])
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "3+4=?"}], add_generation_prompt=True, return_tensors="pt"
    )
    wanted = exported.generate(**prompt, max_new_tokens=12, do_sample=False)
    policy.model.set_attn_implementation("sdpa")
    model: Any = policy.model
    assert torch.equal(model.generate(**prompt, max_new_tokens=12, do_sample=False), wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.35, 0.9])
def test_an_interrupted_run_ends_in_the_same_bits(tmp_path, kind, share):
    with pytest.MonkeyPatch.context() as patch:
        counter = count_writes(patch, None)
        run_with(tmp_path / "whole", kind, until="mgpo")
    directory = tmp_path / "interrupted"
    with pytest.MonkeyPatch.context() as patch:
        count_writes(patch, int(share * counter[0]))
        with pytest.raises(Interrupted):
            run_with(directory, kind, until="mgpo")
    run_with(directory, kind, until="mgpo")
    for stage in ("sft", "fuse", "mgpo"):
        for path in checkpoints(tmp_path / "whole", stage):
            other = directory / path.relative_to(tmp_path / "whole")
            assert (path / WEIGHTS_NAME).read_bytes() == (other / WEIGHTS_NAME).read_bytes()

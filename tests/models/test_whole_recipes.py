"""Families with something special, from SFT to a file that transformers loads again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.models.families import random_model
from tests.policies import tiny_policy
from vibelite.data.batching import TrainingSequence
from vibelite.models.policy import Policy
from vibelite.pipeline import run_pipeline
from vibelite.recipe.load import load_recipe
from vibelite.run_dir import read_jsonl
from vibelite.stages import sft

TOKENIZER = tiny_policy().tokenizer
NANO = Path(__file__).parents[1] / "integration" / "nano.yaml"


def recipe_of(family: str, directory: Path) -> Path:
    """nano.yaml with a random model of the family."""
    ends: dict[str, Any] = {
        "eos_token_id": TOKENIZER.eos_token_id,
        "pad_token_id": TOKENIZER.pad_token_id,
    }
    random_model(family, **ends).save_pretrained(directory / "model")
    TOKENIZER.save_pretrained(directory / "model")
    recipe = yaml.safe_load(NANO.read_text())
    recipe["model"] = {"source": "pretrained", "path": str(directory / "model")}
    for stage in recipe["stages"]:
        if "optimizer" in stage:
            stage["optimizer"] = {"lr": 1e-3}
        if stage["kind"] == "sft":
            stage["max_tokens"] = 128
    path = directory / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Granite", "Qwen3_5Text", "Lfm2", "Gemma4Text"])
def test_a_family_goes_through_all_stages(family, tmp_path, monkeypatch):
    """The first loss of SFT is transformers' own, and the export is loaded by transformers."""
    steps: list[list[TrainingSequence]] = []
    accumulate = sft.accumulate_gradient

    def note(policy: Policy, sequences: list[TrainingSequence], *rest: Any, **options: Any) -> Any:
        steps.append(sequences)
        return accumulate(policy, sequences, *rest, **options)

    monkeypatch.setattr(sft, "accumulate_gradient", note)
    path = recipe_of(family, tmp_path)
    run_pipeline(load_recipe(path, []), recipe_path=path, run_dir=tmp_path / "run")
    (ledger,) = (tmp_path / "run" / "stages").glob("*-sft/steps.jsonl")
    first = next(iter(read_jsonl(ledger)))["metrics"]["sft/loss"]
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    total = torch.zeros(())
    for sequence in steps[0]:
        ids = torch.tensor([sequence.token_ids])
        labels = ids.clone()
        labels[:, : sequence.num_prompt_tokens] = -100
        total += model(ids, labels=labels, use_cache=False).loss * sequence.num_trained
    own = total / sum(sequence.num_trained for sequence in steps[0])
    assert first == pytest.approx(own.item(), abs=1e-4)
    exported = tmp_path / "run" / "export"
    again: Any = AutoModelForCausalLM.from_pretrained(exported)
    assert type(again) is type(model)
    assert AutoTokenizer.from_pretrained(exported).eos_token == TOKENIZER.eos_token
    moved = zip(model.parameters(), again.parameters(), strict=True)
    assert any(not torch.equal(before, after) for before, after in moved)

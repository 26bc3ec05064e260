"""unsloth: asked for by one file, and only when a recipe asks; without it, or without a GPU, one
message that says what to install.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.policies import tiny_policy
from vibelite.errors import RecipeError
from vibelite.models import attention, unsloth_loader
from vibelite.models.agreement import pack_whole
from vibelite.models.policy import Policy
from vibelite.models.unsloth_loader import import_unsloth, load_with_unsloth
from vibelite.recipe.model_section import Training

ROOT = Path(__file__).parents[2]
LOADER = ROOT / "vibelite" / "models" / "unsloth_loader.py"
HAS_GPU = torch.cuda.is_available()
HAS_PACKAGE = importlib.util.find_spec("unsloth") is not None


def test_only_the_loader_imports_unsloth():
    files = [*(ROOT / "vibelite").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    pattern = r"(?m)^\s*(import|from) unsloth|import(_module|lib)?.*\(.unsloth"
    assert [path for path in files if re.search(pattern, path.read_text("utf-8"))] == [LOADER]


@pytest.mark.skipif(HAS_GPU and HAS_PACKAGE, reason="nothing is missing here")
def test_a_recipe_that_asks_for_it_ends_with_that_message_before_transformers_is_loaded(tmp_path):
    tiny_policy().save(tmp_path / "model")
    text = (ROOT / "tests" / "integration" / "nano.yaml").read_text()
    start = text.index("model:")
    model = f"model: {{source: pretrained, path: {tmp_path / 'model'}, loader: unsloth}}"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text[:start] + model + text[text.index("\n", start) :])
    program = f"""
import sys
from vibelite.cli import app
from vibelite.errors import RecipeError
try:
    app(["run", {str(recipe)!r}, "--run-dir", {str(tmp_path / "run")!r}], standalone_mode=False)
except RecipeError as error:
    print(error, error.exit_code, "transformers" in sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT
    )
    assert "model.loader: unsloth needs" in result.stdout, result.stderr[-1000:]
    assert "loader: transformers" in result.stdout
    assert ("vibelite[unsloth]" in result.stdout) == (not HAS_PACKAGE)
    assert ("NVIDIA GPU" in result.stdout) == (not HAS_GPU)
    assert result.stdout.strip().endswith("2 False")
    assert not (tmp_path / "run").exists()


def pretend(monkeypatch, policy: Policy) -> dict[str, Any]:
    """A module unsloth whose FastModel returns `policy`'s model; what it was asked for."""
    monkeypatch.setenv("UNSLOTH_DISABLE_STATISTICS", "1")  # as the import does
    asked: dict[str, Any] = {}

    class FastModel:
        @staticmethod
        def from_pretrained(**settings):
            asked.update(settings)
            return policy.model, None

    module: Any = types.ModuleType("unsloth")
    module.FastModel = FastModel
    monkeypatch.setitem(sys.modules, "unsloth", module)
    monkeypatch.setattr(unsloth_loader.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return asked


def test_it_is_asked_for_the_model_alone_and_gets_our_attention(tmp_path, monkeypatch):
    policy = tiny_policy()
    policy.save(tmp_path)
    policy.model.set_attn_implementation("sdpa")
    asked = pretend(monkeypatch, policy)
    training = Training(dtype="float32")
    loaded = load_with_unsloth(tmp_path, training, four_bit=True, whole=False)
    assert asked["model_name"] == str(tmp_path) and asked["dtype"] == torch.float32
    assert asked["load_in_4bit"] and not asked["full_finetuning"]
    assert not asked["use_gradient_checkpointing"]
    assert loaded.model.config._attn_implementation == attention.ATTENTION
    assert not loaded.model.training
    load_with_unsloth(tmp_path, training, four_bit=False, whole=True)
    assert asked["full_finetuning"] and not asked["load_in_4bit"] and not asked["load_in_16bit"]


def test_an_import_that_fails_says_what_to_do(monkeypatch):
    pretend(monkeypatch, tiny_policy())
    monkeypatch.setitem(sys.modules, "unsloth", None)
    with pytest.raises(RecipeError, match=r"cannot be imported.* install .*vibelite\[unsloth\]"):
        import_unsloth()


@pytest.mark.unsloth
@pytest.mark.gpu
@pytest.mark.parametrize("four_bit", [False, True])
def test_a_real_model_computes_what_transformers_one_does(tmp_path, four_bit):
    from vibelite.models.load import load_policy

    tiny_policy(hidden_size=64, mlp_size=128).save(tmp_path)
    training = Training(dtype="bfloat16")
    loaded = load_with_unsloth(tmp_path, training, four_bit=four_bit, whole=False)
    plain = load_policy(tmp_path, dtype="bfloat16")
    batch = pack_whole([torch.arange(40) % 250 + 5], loaded.device)
    with torch.no_grad():
        difference = (loaded.logprobs(batch)[0] - plain.logprobs(batch)[0]).abs().mean()
    assert difference < (0.5 if four_bit else 0.1)

"""What fusion writes, against means that are computed here from the checkpoints themselves."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.test_adapter import randomise
from tests.policies import tiny_policy
from vibelite.errors import RecipeError
from vibelite.models.adapter import merged_weights, save_adapter
from vibelite.models.load import attach, load_policy
from vibelite.pipeline import make_context
from vibelite.recipe.data_section import Data
from vibelite.recipe.model_section import Adapter, PretrainedModel
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import FuseStage, ProbeStage, Sampling
from vibelite.run_dir import RunDir, write_json_atomic
from vibelite.stages import fuse
from vibelite.telemetry.meter import Meter

STEPS = (2, 4, 6)
# The later checkpoint is the first sub-domain's.
SPECIALISTS = {"algebra": 6, "number": 2}


def save_checkpoints(run: RunDir, kind: str) -> Path:
    """Three checkpoints of a stage `sft` and what `probe` chose of them; the sft's directory."""
    run.base_model.parent.mkdir(parents=True, exist_ok=True)
    tiny_policy(seed=0).save(run.base_model)
    sft, probe = run.stage(0, "sft"), run.stage(1, "probe")
    for step in STEPS:
        path = sft.checkpoints / f"step-{step:06d}"
        path.mkdir(parents=True)
        if kind == "whole":
            tiny_policy(seed=step).save(path)
        else:
            settings = Adapter(kind="lora", rank=2)
            policy = attach(load_policy(run.base_model), settings, start=run.base_model, seed=step)
            randomise(policy, step)
            save_adapter(policy, path)
    names = [path.name for path in sorted(sft.checkpoints.iterdir())]
    write_json_atomic(sft.status_path, {"models": {}, "checkpoints": names})
    models = {
        f"probe-{subdomain}": sft.checkpoints / f"step-{step:06d}"
        for subdomain, step in SPECIALISTS.items()
    }
    probe.finish(models=models)
    return sft.checkpoints


def run_fuse(run: RunDir, **settings: Any) -> dict[str, Path]:
    """The models that the stage leaves, by name."""
    stage = FuseStage(kind="fuse", **settings)
    probe = ProbeStage(kind="probe", sampling=Sampling(max_new_tokens=1))
    model = PretrainedModel(source="pretrained", path="base")
    recipe = Recipe(name="fused", model=model, data=Data(), stages=[probe, stage])
    stage_dir = run.stage(2, "fuse")
    context = make_context(recipe, run.path / "recipe.yaml", run, "fuse", stage_dir, Meter())
    fuse.run(stage, context)
    return stage_dir.models()


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    policy = load_policy(directory)
    return {name: tensor.detach().double() for name, tensor in merged_weights(policy)}


def require_mean(found: Path, sources: Path, weights: dict[int, float]) -> None:
    """`weights` of the checkpoints by step, with sum 1."""
    tensors = {step: weights_of(sources / f"step-{step:06d}") for step in weights}
    fused = weights_of(found)
    assert len(fused) > 10
    for name, tensor in fused.items():
        mean = sum(share * tensors[step][name] for step, share in weights.items())
        torch.testing.assert_close(tensor, mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["whole", "adapters"])
def test_specialists_count_alike_and_the_tail_is_the_last_checkpoints(
    kind: str, tmp_path: Path
) -> None:
    run = RunDir(tmp_path)
    sources = save_checkpoints(run, kind)
    models = run_fuse(run, tail_average=2)
    assert list(models) == ["tail-average", "fuse"], "the stage's own model is the last"
    require_mean(models["fuse"], sources, {6: 0.5, 2: 0.5})
    require_mean(models["tail-average"], sources, {4: 0.5, 6: 0.5})


def test_without_a_tail_there_is_one_model(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    save_checkpoints(run, "whole")
    assert list(run_fuse(run, tail_average=0)) == ["fuse"]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two models of one kind."""
    for seed, name in enumerate(("first", "second")):
        tiny_policy(seed).save(tmp_path / name)
    return tmp_path / "first", tmp_path / "second"


def write_mean(pair: tuple[Path, Path]) -> Path:
    target = pair[0].parent / "mean"
    fuse.write_fused(pair, ["a", "b"], [1.0, 1.0], target)
    return target


def test_another_template_is_told_and_another_type_averaged(pair, capsys) -> None:
    load_policy(pair[1], dtype="bfloat16").save(pair[1])
    (pair[1] / "chat_template.jinja").write_text("{{ messages }}")
    assert weights_of(write_mean(pair))
    warning = capsys.readouterr().err
    assert f"warning: {pair[1]} has another chat template than {pair[0]}" in warning


def test_other_configurations_and_other_token_ids_are_refused(pair) -> None:
    path = pair[1] / "config.json"
    whole = path.read_text()
    config = json.loads(whole)
    config["rope_parameters"]["rope_theta"] *= 2
    path.write_text(json.dumps(config))
    with pytest.raises(RecipeError, match=r"second: its configuration differs .* rope_param"):
        write_mean(pair)
    path.write_text(whole)
    path = pair[1] / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(RecipeError, match="second: its tokenizer gives other ids to tokens"):
        write_mean(pair)
    assert not (pair[0].parent / "mean").exists()

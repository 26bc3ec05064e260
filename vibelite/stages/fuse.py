"""Expert fusion: the specialists' weighted mean, with a lineage file and the plain tail average as
a control.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vibelite.algorithms.fusion import fuse_models
from vibelite.errors import RecipeError
from vibelite.models.adapter import is_adapter, mean_adapter, write_adapter
from vibelite.recipe.stage_section import FuseStage, ProbeStage
from vibelite.run_dir import REMAKE_MODEL, new_directory, write_json_atomic
from vibelite.stages.context import StageContext
from vibelite.storage import require_unchanged


def run(stage: FuseStage, context: StageContext) -> None:
    """Leaves `checkpoints/fused` and, when asked for, `checkpoints/tail-average`, each with
    lineage.json.
    """
    specialists = context.models_of(stage.start_from)
    subdomains = [name.removeprefix(f"{stage.start_from}-") for name in specialists]
    weights = specialist_weights(stage, subdomains)
    models = {}
    with context.meter.span("fuse"):
        if stage.tail_average:
            tail = sft_checkpoints(stage, context)[-stage.tail_average :]
            target = context.stage_dir.checkpoints / "tail-average"
            write_fused(tail, [path.name for path in tail], [1.0] * len(tail), target)
            models["tail-average"] = target
        target = context.stage_dir.checkpoints / "fused"
        write_fused(list(specialists.values()), subdomains, weights, target)
        models[stage.name] = target
    context.recorder.record_work("fuse")
    context.stage_dir.finish(models=models)


def specialist_weights(stage: FuseStage, subdomains: Sequence[str]) -> list[float]:
    """One weight per sub-domain, in order; uniform when the recipe gives none."""
    if not stage.weights:
        return [1.0] * len(subdomains)
    if stage.weights.keys() != set(subdomains):
        raise RecipeError(
            f"stages.{stage.name}.weights: names {sorted(stage.weights)}, "
            f"but the specialists are {sorted(subdomains)}"
        )
    return [stage.weights[subdomain] for subdomain in subdomains]


def sft_checkpoints(stage: FuseStage, context: StageContext) -> list[Path]:
    """All checkpoints that the probe chose from, in order of training."""
    probe = context.recipe.stage_named(stage.start_from)
    assert isinstance(probe, ProbeStage), "validated with the recipe"
    return context.run.find_stage(probe.start_from).kept_checkpoints()


def write_fused(
    sources: Sequence[Path], names: Sequence[str], weights: Sequence[float], target: Path
) -> None:
    """The weighted mean of `sources` in `target`, whole or not at all, with what it was made of.

    That of adapters on one model is an adapter too: the one that merges to the mean of their merged
    weights.
    """
    for source in sources:
        require_unchanged(source, remedy=REMAKE_MODEL)
    total = sum(weights)
    lineage = {
        "method": "weighted mean in float32",
        "sources": [
            {
                "name": name,
                "checkpoint": f"{path.parent.parent.name}/{path.name}",
                "weight": weight / total,
            }
            for name, path, weight in zip(names, sources, weights, strict=True)
        ],
    }
    with new_directory(target) as temporary:
        if all(map(is_adapter, sources)):
            write_adapter(mean_adapter(sources, weights), temporary)
        else:
            fuse_models(sources, weights, temporary)
        write_json_atomic(temporary / "lineage.json", lineage)

"""The final model as one directory that `AutoModelForCausalLM.from_pretrained` loads."""

from __future__ import annotations

import shutil
from pathlib import Path

from vibelite.errors import RecipeError
from vibelite.recipe.schema import ExportStage
from vibelite.run_dir import replace_directory
from vibelite.stages.context import StageContext


def run(stage: ExportStage, context: StageContext) -> None:
    """Writes the model of `start_from` to the run's export/."""
    with context.meter.span("export"):
        copy_model(context.model_of(stage.start_from), context.run.export_path)
    context.recorder.record_work("export")
    context.stage_dir.finish(models={stage.name: context.run.export_path})


def copy_model(source: Path, target: Path) -> None:
    """Copies a Hugging Face directory, whole or not at all."""
    if not (source / "config.json").exists():
        raise RecipeError(f"{source}: not a Hugging Face model directory (no config.json)")
    temporary = target.with_name(f".{target.name}.tmp")
    if temporary.exists():
        shutil.rmtree(temporary)
    shutil.copytree(source, temporary)
    replace_directory(temporary, target)

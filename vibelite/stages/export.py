"""The final model as one directory that `AutoModelForCausalLM.from_pretrained` loads."""

from __future__ import annotations

from vibelite.recipe.stage_section import ExportStage
from vibelite.run_dir import copy_directory
from vibelite.stages.context import StageContext


def run(stage: ExportStage, context: StageContext) -> None:
    """Writes the model of `start_from` to the run's export/."""
    with context.meter.span("export"):
        copy_directory(context.model_of(stage.start_from), context.run.export_path)
    context.recorder.record_work("export")
    context.stage_dir.finish(models={stage.name: context.run.export_path})

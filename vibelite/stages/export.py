"""The final model as one directory that `AutoModelForCausalLM.from_pretrained` loads."""

from __future__ import annotations

from pathlib import Path

from vibelite.models.adapter_files import is_adapter
from vibelite.recipe.stage_section import ExportStage
from vibelite.run_dir import copy_directory, new_directory
from vibelite.stages.context import StageContext


def run(stage: ExportStage, context: StageContext) -> None:
    """Writes the model of `start_from` to the run's export/."""
    with context.meter.span("export"):
        export_model(context.model_of(stage.start_from), context.run.export_path)
    context.recorder.record_work("export")
    context.stage_dir.finish(models={stage.name: context.run.export_path})


def export_model(source: Path, target: Path) -> None:
    """Writes the model in `source` to `target`, whole or not at all; adapters merged into it."""
    if not is_adapter(source):
        copy_directory(source, target)
        return
    from vibelite.models.load import load_policy

    with new_directory(target) as temporary:
        load_policy(source).save(temporary)

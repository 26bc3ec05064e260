"""`vibelite export`: a run's model for others."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Literal

import typer

from vibelite.commands.options import require_runs
from vibelite.errors import RecipeError


def export(
    run_dir: Annotated[Path, typer.Argument(help="A run directory.")],
    to: Annotated[Path, typer.Option(help="The new model directory.")],
    stage: Annotated[
        str | None, typer.Option(help="The stage whose model is meant; default: the run's export.")
    ] = None,
    form: Annotated[
        Literal["hf", "bnb-4bit", "bnb-8bit", "gguf", "gguf-q8_0"],
        typer.Option("--format", help="hf is what transformers and vLLM load."),
    ] = "hf",
    push: Annotated[
        str, typer.Option(metavar="OWNER/NAME", help="Then upload it: a private repository.")
    ] = "",
) -> None:
    """Write a run's model, adapters merged into it, and its model card.

    vibelite export runs/mine --to models/mine --stage fuse --format gguf

    It is loaded again and asked a question; hf and gguf must give the same tokens as the run's.
    """
    source, maker = model_of_run(run_dir, stage)
    if to.exists():
        raise RecipeError(f"{to}: exists already; name a new directory")
    if push:
        with hub_errors(push):
            create_repository(push)
    with redirect_stdout(sys.stderr):
        from vibelite.report.model_card import model_card
        from vibelite.stages.export import export_model

        export_model(source, to, card=model_card(run_dir, maker), form=form)
    print(to)
    if push:
        from huggingface_hub import HfApi

        with hub_errors(push):
            print(HfApi().upload_folder(repo_id=push, folder_path=to).commit_url)


def create_repository(name: str) -> None:
    """Before anything is written: the token, the name and the right to make it are seen to."""
    from huggingface_hub import HfApi

    if name.count("/") != 1:
        raise RecipeError(f"--push {name}: name it OWNER/NAME")
    HfApi().create_repo(name, private=True, exist_ok=True)


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """What the hub or the way to it refuses, in one sentence."""
    from httpx import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        yield
    except (HTTPError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise RecipeError(
            f"--push {name}: {reason}; `hf auth login` or HF_TOKEN sets a token that may write"
        ) from error


def model_of_run(run_dir: Path, stage: str | None) -> tuple[Path, str]:
    """The directory of the model that a stage left, or of the run's export, and the stage that
    trained it.
    """
    from ruamel.yaml import YAML

    from vibelite.recipe.suggest import did_you_mean
    from vibelite.run_dir import RunDir

    require_runs([run_dir])
    run = RunDir(run_dir)
    recipe = YAML(typ="safe").load(run.resolved_recipe_path.read_text(encoding="utf-8"))
    makers = {s["name"]: s["start_from"] for s in recipe["stages"] if s["kind"] == "export"}
    if stage is None:
        if not run.export_path.is_dir():
            raise RecipeError(f"{run_dir}: has no export yet; finish the run, or name a --stage")
        return run.export_path, list(makers.values())[-1]
    finished = sorted(path.parent.name for path in run.path.glob("stages/*/status.json"))
    names = [name.partition("-")[2] for name in finished]
    if stage not in names:
        hint = did_you_mean(stage, names)
        raise RecipeError(f"--stage {stage}: no finished stage of {run_dir}{hint}")
    models = list(run.find_stage(stage).models().values())
    if not models:
        raise RecipeError(f"--stage {stage}: makes no model of its own")
    return models[-1], makers.get(stage, stage)

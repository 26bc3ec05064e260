"""The model card of an export, from the run directory alone; the rest is called unknown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import ModelCard, ModelCardData
from ruamel.yaml import YAML

from vibelite.report.cost import add_up, stage_costs
from vibelite.report.summary import collect_results, with_interval
from vibelite.run_dir import read_json
from vibelite.telemetry.ledger import read_ledger
from vibelite.units import duration, percent, usd

CARD_NAME = "README.md"
UNKNOWN = "unknown"
# Licences of published models, as the hub names them; of others the card beside the model is read.
LICENCES = {
    "Qwen/Qwen2.5-Math-1.5B": "apache-2.0",
    "Qwen/Qwen2.5-1.5B": "apache-2.0",
    "Qwen/Qwen2.5-0.5B": "apache-2.0",
    "Qwen/Qwen2.5-3B": "qwen-research (not for commercial use)",
    "Qwen/Qwen2.5-Coder-3B": "qwen-research (not for commercial use)",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "apache-2.0",
}
SHOWN_SETTINGS = (
    "traces",
    "problems",
    "num_steps",
    "sequences_per_step",
    "problems_per_step",
    "group_size",
    "maxent_lambda",
    "long2short",
    "k",
    "num_samples",
)
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


def model_card(run_dir: Path, stage: str) -> str:
    """The card, in Markdown, of the model that `stage` of the run made."""
    recipe = YAML(typ="safe").load((run_dir / "recipe.resolved.yaml").read_text(encoding="utf-8"))
    path = run_dir / "manifest.json"
    manifest = read_json(path) if path.exists() else {}
    base, licence = base_of(recipe["model"], run_dir)
    hardware = manifest.get("hardware", {})
    gpus = ", ".join(gpu["name"] for gpu in hardware.get("gpus", []))
    ledger = read_ledger(run_dir / "ledger")
    total = add_up("all", ledger)
    decontamination = manifest.get("decontamination") or {}
    versions = manifest.get("versions", {})
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vibelite.report", "."), trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("model_card.md.j2").render(
        recipe=recipe,
        manifest=manifest,
        stage=stage,
        base=base,
        licence=licence,
        front_matter=front_matter(recipe["model"]["source"], base, licence),
        stages=stage_rows(recipe),
        data=data_rows(recipe, manifest),
        dropped=[(n, row["num_rows"], row["num_dropped"]) for n, row in decontamination.items()],
        costs=[
            (one.name, duration(one.seconds), usd(one.usd)) for one in [*stage_costs(ledger), total]
        ],
        hardware=gpus or hardware.get("cpu") or "an unknown machine",
        prices=total.prices,
        results=result_rows(run_dir, stage),
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
    )


def base_of(model: Mapping[str, Any], run_dir: Path) -> tuple[str, str]:
    """What the recipe started with, and its licence."""
    match model["source"]:
        case "tiny":
            return "none: random weights", "none"
        case "smollm2":
            return SMOLLM2, LICENCES[SMOLLM2]
    name = model["path"]
    shown = name if model["revision"] == "main" else f"{name}@{model['revision']}"
    known = LICENCES.get(name) or LICENCES.get(name.removesuffix("-Instruct"))
    card = run_dir / Path(name).expanduser() / CARD_NAME
    if known is None and card.is_file():
        known = ModelCard.load(card, ignore_metadata_errors=True).data.get("license")
    return shown, known or UNKNOWN


def front_matter(source: str, base: str, licence: str) -> str:
    """What the hub reads."""
    return ModelCardData(
        license=licence if re.fullmatch("[a-z0-9.-]+", licence) else "other",
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["vibelite"],
        base_model=None if source == "tiny" else base.partition("@")[0],
    ).to_yaml()


def stage_rows(recipe: Mapping[str, Any]) -> Iterator[list[str]]:
    """Every stage with the settings that decide most."""
    for stage in recipe["stages"]:
        settings = [
            f"{name} {stage[name]}" for name in SHOWN_SETTINGS if stage.get(name) not in (None, {})
        ]
        optimizer = stage.get("optimizer")
        if optimizer:
            settings.append(f"{optimizer['kind']}, lr {optimizer['lr']:g}, {optimizer['schedule']}")
        if stage.get("sampling"):
            settings.append(f"up to {stage['sampling']['max_new_tokens']} new tokens")
        yield [stage["name"], stage["kind"], stage.get("start_from", ""), "; ".join(settings)]


def data_rows(recipe: Mapping[str, Any], manifest: Mapping[str, Any]) -> Iterator[list[str]]:
    """Every set of problems and traces: what uses it, where it is from, and its hash."""
    hashes = manifest.get("data_sha256", {})
    for kind in ("problems", "traces"):
        for name, source in recipe["data"][kind].items():
            tested = "benchmarks" if kind == "problems" else "none"
            users = [
                stage["name"]
                for stage in recipe["stages"]
                if name in (stage.get(kind), *stage.get(tested, []))
            ]
            yield [
                name,
                ", ".join(users) or ("decontamination" if kind == "problems" else "nothing"),
                place(source),
                hashes.get(name, UNKNOWN)[:16],
            ]


def place(source: Mapping[str, Any]) -> str:
    """Where a set comes from, in words; of a file its name alone."""
    kind = source["source"]
    if kind == "mix":
        return "; ".join(map(place, source["sets"]))
    path = source.get("path") or ""
    parts = [kind, source.get("name"), path if kind == "hub" else Path(path).name]
    parts += [source.get(key) for key in ("config", "split", "revision", "problems")]
    parts += [task["dataset"] for task in source.get("tasks", {}).values()]
    return " ".join(filter(None, parts))


def result_rows(run_dir: Path, stage: str) -> list[tuple[str, ...]]:
    """Scores of this model beside the base; nothing where it was not evaluated."""
    rows = [row for row in collect_results(run_dir) if row["stage"] in ("base", stage)]
    if not any(row["stage"] == stage for row in rows):
        return []
    return [
        (
            row["benchmark"],
            "this model" if row["stage"] == stage else row["stage"],
            f"{row['num_problems']} x {row['num_samples']}",
            with_interval(row["pass_at_1"], row["pass_at_1_ci"]),
            ", ".join(f"@{k} {percent(value)}" for k, value in row["pass_at_k"].items()),
        )
        for row in rows
    ]

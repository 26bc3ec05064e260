"""What a report shows of a run directory, as far as it exists: the run may be under way."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from vibelite.recipe.stage_section import BASE
from vibelite.report.answers import AnswerBook, Answers
from vibelite.report.headline import Finding, Headline, find_problems, headline
from vibelite.report.summary import collect_results
from vibelite.report.texts import clip_texts, evenly_spaced
from vibelite.run_dir import read_json, read_jsonl
from vibelite.telemetry.ledger import Entry, read_ledger
from vibelite.units import short_number, usd

# Hands samples on as they are, and may note them.
Through = Callable[[Iterator[dict[str, Any]]], Iterator[dict[str, Any]]]
# Keep the page under 2 MB whatever the run: about 400 kB of samples a stage at most.
SAMPLES_PER_STAGE = 120


@dataclass(frozen=True, slots=True)
class StageData:
    """One stage; `total_steps` is None where the recipe names no number."""

    name: str
    total_steps: int | None
    is_started: bool = False
    is_finished: bool = False
    steps: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    num_samples: int = 0
    probe: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class RunData:
    """One run; texts and manifest are None where they do not exist."""

    name: str
    stages: list[StageData]
    results: list[dict[str, Any]]
    ledger: list[Entry]
    manifest: dict[str, Any] | None
    recipe_text: str | None
    headline: Headline
    problems: list[Finding]
    facts: list[str]
    """Model, machine, day, seed and price, as far as they are known."""
    answers: list[Answers]


def load_run(run_dir: Path, name: str) -> RunData:
    """Everything of the run, to be called `name`. CheckpointError: a damaged file."""
    resolved = run_dir / "recipe.resolved.yaml"
    recipe_text = resolved.read_text(encoding="utf-8") if resolved.exists() else None
    path, ledger = run_dir / "manifest.json", read_ledger(run_dir / "ledger")
    manifest = read_json(path) if path.exists() else None
    results = collect_results(run_dir)
    keys = model_keys(run_dir)
    book = AnswerBook(results, keys)
    stages = load_stages(run_dir, recipe_text, keys, book.noting)
    steps_of = {stage.name: stage.steps for stage in stages}
    return RunData(
        name=name,
        stages=stages,
        results=results,
        ledger=ledger,
        manifest=manifest,
        recipe_text=recipe_text,
        headline=headline(run_dir, ledger, steps_of),
        problems=find_problems(run_dir, results, steps_of),
        facts=facts_of(manifest or {}),
        answers=book.answers,
    )


def facts_of(manifest: Mapping[str, Any]) -> list[str]:
    """What a reader asks first of a run that somebody else made."""
    facts = []
    if model := manifest.get("resolved_recipe", {}).get("model"):
        name = Path(model["path"]).name if "path" in model else f"a {model['source']} model"
        known = "num_parameters" in manifest
        size = f", {short_number(manifest['num_parameters'])} parameters" if known else ""
        facts.append(f"{name}{size}")
    if hardware := manifest.get("hardware"):
        gpus = Counter(gpu["name"] for gpu in hardware["gpus"])
        machine = [f"{count} x {gpu}" for gpu, count in gpus.items()]
        facts.append(", ".join(machine) or hardware["cpu"])
    facts += [manifest["started_utc"][:10]] if "started_utc" in manifest else []
    facts += [f"seed {manifest['seed']}"] if "seed" in manifest else []
    for key, per in (("usd_per_hour", "hour"), ("usd_per_gpu_hour", "hour of a GPU")):
        if (price := manifest.get("cost", {}).get(key)) is not None:
            facts.append(f"{usd(price)} an {per}")
    return facts


def load_stages(
    run_dir: Path, recipe_text: str | None, keys: dict[str, str], through: Through = iter
) -> list[StageData]:
    """The stages of the recipe in order, or, without a recipe, the directories that there are. The
    samples are read once, `through` what else looks at them.
    """
    directories = {
        path.name.partition("-")[2]: path for path in sorted((run_dir / "stages").glob("[0-9]*-*"))
    }
    recipe = YAML(typ="safe").load(recipe_text) if recipe_text else {}
    planned = {stage["name"]: stage.get("num_steps") for stage in recipe.get("stages", [])}
    # The first name of a model that has several: reversed, so that it is the one that stays.
    labels = {key: name for name, key in reversed(keys.items())}
    return [
        load_stage(name, planned.get(name), directories.get(name), labels, through)
        for name in dict.fromkeys([*planned, *directories])
    ]


def model_keys(run_dir: Path) -> dict[str, str]:
    """Name of a model -> what stands for its directory in the keys of an evaluation's samples, such
    as stages-03-mgpo-checkpoints-step-000070. A directory may have several names.
    """
    keys = {BASE: BASE}
    for path in sorted(run_dir.glob("stages/[0-9]*-*/status.json")):
        for name, relative in read_json(path)["models"].items():
            directory = os.path.normpath(path.parent.relative_to(run_dir) / relative)
            keys[name] = "-".join(Path(directory).parts)
    return keys


def load_stage(
    name: str,
    total_steps: int | None,
    path: Path | None,
    labels: dict[str, str],
    through: Through,
) -> StageData:
    """One stage from its directory; None: it has not been started. `labels`: model keys -> names.
    A sample's `origin` is its step, or the benchmark and the model.
    """
    stage = StageData(name, total_steps)
    if path is None:
        return stage
    samples, num_samples = choose_samples(through(read_jsonl(path / "samples.jsonl")))
    for row in samples:
        benchmark, _, directory = row.get("key", "").rpartition("--")
        model = labels.get(directory, directory)
        row["origin"] = f"step {row['step']}" if "step" in row else f"{benchmark}, {model}"
    probe = path / "probe.json"
    return replace(
        stage,
        is_started=True,
        is_finished=(path / "status.json").exists(),
        steps=list(read_jsonl(path / "steps.jsonl")),
        samples=samples,
        num_samples=num_samples,
        probe=read_json(probe) if probe.exists() else None,
    )


def choose_samples(rows: Iterator[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """A few samples, in order, and how many there were. Of each step (or evaluated model) the first
    correct, wrong and unverifiable one of each sub-domain; of many steps, evenly spaced ones.
    """
    by_step: dict[Any, dict[tuple[str, bool | None], dict[str, Any]]] = {}
    num_rows = 0
    for row in rows:
        num_rows += 1
        chosen = by_step.setdefault(row.get("step", row.get("key")), {})
        kind = (row.get("subdomain", ""), row.get("correct"))
        if kind not in chosen:
            chosen[kind] = clip_texts(row)
    steps = list(by_step.values())
    most = max(map(len, steps), default=1)
    kept = evenly_spaced(steps, max(1, SAMPLES_PER_STAGE // most))
    return [row for step in kept for row in step.values()], num_rows

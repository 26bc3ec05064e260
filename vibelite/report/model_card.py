"""The model card of an export: what it was made from, how, at what cost, and how well it does. From
the run directory alone; what is not known there is called unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from vibelite.report.cost import add_up, stage_costs
from vibelite.report.summary import collect_results, with_interval
from vibelite.run_dir import read_json
from vibelite.telemetry.ledger import read_ledger
from vibelite.units import HOUR, percent, usd_text

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
FRONT_LICENCE = re.compile(r"\A---\n(?:.*\n)*?license:\s*(\S+)")


def model_card(run_dir: Path, stage: str) -> str:
    """The card, in Markdown, of the model that `stage` of the run made."""
    recipe = YAML(typ="safe").load((run_dir / "recipe.resolved.yaml").read_text(encoding="utf-8"))
    path = run_dir / "manifest.json"
    manifest = read_json(path) if path.exists() else {}
    base, licence = base_of(recipe["model"], run_dir)
    parts = [
        front_matter(recipe, base, licence),
        f"# {recipe['name']}",
        f"The model of stage `{stage}` of a run of VibeLite, which trains small reasoning models "
        "by SFT with checkpoints, probing, expert fusion and MGPO (arXiv 2511.06221).",
        "## Base\n\n"
        f"{base}; licence: {licence}. What that licence asks of derived models holds for this one; "
        "so do the licences of the data below, which this card does not know.",
        usage(recipe),
        "## Training",
        table(("stage", "kind", "from", "settings"), stage_rows(recipe)),
        "## Data",
        table(("set", "for", "where", "SHA-256"), data_rows(recipe, manifest)),
        decontamination(manifest),
        cost_text(run_dir, manifest),
        evaluation(run_dir, stage),
        provenance(manifest),
    ]
    return "\n\n".join(parts) + "\n"


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
        found = FRONT_LICENCE.match(card.read_text(encoding="utf-8"))
        known = found[1] if found else None
    return shown, known or UNKNOWN


def front_matter(recipe: Mapping[str, Any], base: str, licence: str) -> str:
    """What the hub reads."""
    lines = ["library_name: transformers", "pipeline_tag: text-generation", "tags: [vibelite]"]
    lines.insert(0, f"license: {licence if re.fullmatch('[a-z0-9.-]+', licence) else 'other'}")
    if recipe["model"]["source"] != "tiny":
        lines.append(f"base_model: {base.partition('@')[0]}")
    return "\n".join(["---", *lines, "---"])


def usage(recipe: Mapping[str, Any]) -> str:
    """How to ask the model as it was trained."""
    prompt = recipe["data"]["system_prompt"]
    told = recipe["data"].get("chat_template_kwargs") or {}
    options = "".join(f", {name}={value!r}" for name, value in told.items())
    asked = f"with the system prompt {prompt!r}" if prompt else "without a system prompt"
    return (
        f"## Use\n\nIt was trained {asked}, through the chat template of its tokenizer; a message "
        "ends at any of the end tokens in generation_config.json.\n\n"
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")\n'
        'model = AutoModelForCausalLM.from_pretrained("DIRECTORY", dtype="auto")\n'
        'messages = [{"role": "user", "content": "What is 1 + 1?"}]\n'
        "inputs = tokenizer.apply_chat_template(\n"
        '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True'
        f"{options}\n"
        ")\n"
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=512)[0]))\n"
        "```"
    )


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
            users = [stage["name"] for stage in recipe["stages"] if name in used_by(stage, kind)]
            yield [
                name,
                ", ".join(users) or ("decontamination" if kind == "problems" else "nothing"),
                "; ".join(places(source)),
                hashes.get(name, UNKNOWN)[:16],
            ]


def used_by(stage: Mapping[str, Any], kind: str) -> list[str]:
    names = [stage.get(kind), *(stage.get("benchmarks", []) if kind == "problems" else [])]
    return [name for name in names if isinstance(name, str)]


def places(source: Mapping[str, Any]) -> Iterator[str]:
    """Where a set comes from, in words."""
    match source["source"]:
        case "mix":
            for part in source["sets"]:
                yield from places(part)
        case "hub":
            parts = [source["path"], source["config"], source["split"]]
            copy = " (a local copy)" if source["local"] else ""
            yield f"{' '.join(filter(None, parts))} at {source['revision']}{copy}"
        case "file":
            yield f"the file {Path(source['path']).name}"
        case "benchmark":
            copy = f" from the file {Path(source['path']).name}" if source["path"] else ""
            yield f"benchmark {source['name']}{copy}"
        case "reasoning_gym":
            names = ", ".join(task["dataset"] for task in source["tasks"].values())
            yield f"reasoning-gym: {names} ({source['split']})"
        case other:
            yield f"{other}: {source.get('problems', '')}"


def decontamination(manifest: Mapping[str, Any]) -> str:
    """How many rows were kept out of training."""
    found = manifest.get("decontamination")
    if not found:
        return "Nothing was decontaminated."
    rows = [[name, str(row["num_rows"]), str(row["num_dropped"])] for name, row in found.items()]
    return "Decontaminated by shared 10-grams:\n\n" + table(("set", "rows", "dropped"), rows)


def cost_text(run_dir: Path, manifest: Mapping[str, Any]) -> str:
    """Time and money by stage, up to where the card was written."""
    ledger = read_ledger(run_dir / "ledger")
    total = add_up("all", ledger)
    rows = [
        [
            cost.name,
            f"{cost.seconds / HOUR:.2f}",
            UNKNOWN if cost.usd is None else usd_text(cost.usd),
        ]
        for cost in [*stage_costs(ledger), total]
    ]
    hardware = manifest.get("hardware", {})
    gpus = ", ".join(gpu["name"] for gpu in hardware.get("gpus", []))
    lines = [f"On {gpus or hardware.get('cpu') or 'an unknown machine'}."]
    lines += [f"Price: {price}." for price in total.prices] or ["No price was given."]
    return "## Cost\n\n" + table(("stage", "hours", "USD"), rows) + "\n\n" + "\n".join(lines)


def evaluation(run_dir: Path, stage: str) -> str:
    """Pass@1 and Pass@k of this model beside the base, with 95% intervals over problems."""
    rows = [row for row in collect_results(run_dir) if row["stage"] in ("base", stage)]
    if not any(row["stage"] == stage for row in rows):
        return "## Evaluation\n\nThis model was not evaluated in its run."
    cells = [
        [
            row["benchmark"],
            "this model" if row["stage"] == stage else row["stage"],
            f"{row['num_problems']} x {row['num_samples']}",
            with_interval(row["pass_at_1"], row["pass_at_1_ci"]),
            ", ".join(f"@{k} {percent(value)}" for k, value in row["pass_at_k"].items()),
        ]
        for row in rows
    ]
    header = ("benchmark", "model", "problems x samples", "Pass@1 % [95%]", "Pass@k %")
    return (
        "## Evaluation\n\n"
        + table(header, cells)
        + "\n\nIntervals are of a bootstrap over problems."
    )


def provenance(manifest: Mapping[str, Any]) -> str:
    """What another one needs to make the run again."""
    git = manifest.get("git", {}).get("commit", UNKNOWN)
    versions = ", ".join(f"{name} {v}" for name, v in manifest.get("versions", {}).items())
    return (
        "## Made with\n\n"
        f"Commit {git}; recipe SHA-256 {manifest.get('recipe_sha256', UNKNOWN)}; seed "
        f"{manifest.get('seed', UNKNOWN)}; {versions or 'versions unknown'}. "
        "`vibelite replicate manifest.json` makes the run again."
    )


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    lines = [list(header), *(list(row) for row in rows)]
    texts = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    texts.insert(1, "|" + "---|" * len(lines[0]))
    return "\n".join(texts)

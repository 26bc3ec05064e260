"""What a run was made with, so that it can be repeated. No host names, and no paths but those that
the recipe itself has.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from vibelite.recipe.schema import Recipe
from vibelite.telemetry.memory import field_of

CPU_INFO = Path("/proc/cpuinfo")
# Packages whose version can change a number.
PACKAGES = (
    *("vibelite", "torch", "transformers", "tokenizers", "datasets", "numpy", "safetensors"),
    *("reasoning-gym", "math-verify", "vllm", "bitsandbytes", "peft", "unsloth", "triton"),
)


def environment_manifest(recipe: Recipe, *, data_hashes: Mapping[str, str]) -> dict[str, Any]:
    """Program, versions, machine, seeds and hashes (data set name -> SHA-256)."""
    import torch

    return {
        "started_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": recipe.name,
        "recipe_sha256": recipe_hash(recipe),
        "resolved_recipe": recipe.model_dump(mode="json"),
        "seed": recipe.seed,
        "data_sha256": dict(data_hashes),
        "git": git_state(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": installed_versions(),
        "cuda": torch.version.cuda,
        "num_threads": torch.get_num_threads(),
        "hardware": describe_hardware(),
        "cost": recipe.cost.model_dump(mode="json"),
    }


def describe_hardware() -> dict[str, Any]:
    """Processor, memory and GPUs, for the manifest. Memory in bytes."""
    import psutil
    import torch

    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    properties = [torch.cuda.get_device_properties(index) for index in range(num_gpus)]
    return {
        "cpu": cpu_name(),
        "num_cpus": num_usable_cpus(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": [
            {
                "name": gpu.name,
                "memory_bytes": gpu.total_memory,
                "capability": f"{gpu.major}.{gpu.minor}",
            }
            for gpu in properties
        ],
    }


def num_usable_cpus() -> int:
    """CPUs that this process may run on, which in a container can be fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's marketing name, or its architecture where that is all there is."""
    name = field_of(CPU_INFO, "model name") if CPU_INFO.exists() else ""
    return name or platform.machine()


def recipe_hash(recipe: Recipe) -> str:
    text = json.dumps(recipe.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def installed_versions() -> dict[str, str]:
    found = {package: list(metadata.distributions(name=package)) for package in PACKAGES}
    return {package: each[0].version for package, each in found.items() if each}


def git_state() -> dict[str, Any]:
    """The commit of this program and whether tracked files were changed; "unknown" for an installed
    copy, about which the repository around it says nothing.
    """
    here = Path(__file__).resolve()
    if run_git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return {"commit": "unknown", "dirty": None}
    changes = run_git(here.parent, "status", "--porcelain", "--untracked-files=no")
    return {
        "commit": run_git(here.parent, "rev-parse", "HEAD") or "unknown",
        "dirty": None if changes is None else bool(changes),
    }


def run_git(directory: Path, *arguments: str) -> str | None:
    """What git prints; None when git is not installed or fails."""
    command = ["git", "-C", str(directory), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None

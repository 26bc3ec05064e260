"""`vibelite doctor`: is this machine ready, and what to do where it is not."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from vibelite.errors import SandboxError
from vibelite.rewards.sandbox import describe_tier

Status = Literal["ok", "warn", "fail"]
GIB = 1024**3
# Quickstart peaks at 0.8 GB of resident memory on a CPU; the rest is margin.
MEMORY_NEEDED_GIB = 2
# Quickstart needs far less; one checkpoint of a 135M model in float32 is half a GB.
DISK_NEEDED_GIB = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `fix` says what to do unless the status is "ok"."""

    status: Status
    subject: str
    detail: str
    fix: str = ""


def examine() -> list[Finding]:
    """Looks at the Python, the required packages, memory, disks, torch, GPUs and the sandbox."""
    return [
        _python(),
        *_packages(),
        _memory(),
        _disk("working directory", Path.cwd()),
        _disk("Hugging Face cache", _cache_directory()),
        *_torch(),
        _sandbox(),
    ]


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """`ok` is whether nothing fails; warnings do not count."""
    ok = all(finding.status != "fail" for finding in findings)
    return {"ok": ok, "findings": [asdict(finding) for finding in findings]}


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info < (3, 13):
        return Finding("ok", "python", version)
    return Finding("fail", "python", version, "use Python 3.11 or 3.12, then: make setup")


def _packages() -> Iterator[Finding]:
    """The requirements of the installed package itself, so that there is no second list."""
    for text in metadata.requires("vibelite") or []:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        wanted = str(requirement.specifier)
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding("fail", requirement.name, "not installed", "make setup")
            continue
        if requirement.specifier.contains(installed, prereleases=True):
            yield Finding("ok", requirement.name, installed)
        else:
            fix = f"make setup (installs {requirement.name}{wanted})"
            yield Finding("fail", requirement.name, f"{installed}, needs {wanted}", fix)


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    detail = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    if memory.available >= MEMORY_NEEDED_GIB * GIB:
        return Finding("ok", "memory", detail)
    return Finding("warn", "memory", detail, "close other programs: quickstart needs 2 GiB")


def _disk(subject: str, path: Path) -> Finding:
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    detail = f"{free / GIB:.1f} GiB free"
    if not os.access(path, os.W_OK):
        return Finding("fail", subject, f"{path} cannot be written", "choose another directory")
    if free >= DISK_NEEDED_GIB * GIB:
        return Finding("ok", subject, detail)
    return Finding("warn", subject, detail, f"free {DISK_NEEDED_GIB} GiB, or use another disk")


def _cache_directory() -> Path:
    """Where Hugging Face libraries put what they download (their documented variables)."""
    root = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("HF_HOME", f"{root}/huggingface")).expanduser()


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("fail", "torch", f"cannot be imported: {error}", "make clean setup")
        return
    yield Finding("ok", "CPU threads of torch", str(torch.get_num_threads()))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(index)
            detail = (
                f"{gpu.name}, {gpu.total_memory / GIB:.0f} GiB, compute {gpu.major}.{gpu.minor}"
            )
            yield Finding("ok", f"GPU {index}", detail)
    elif torch.version.cuda is None:
        fix = "none needed for the CPU recipes; for a GPU install a CUDA build of torch 2.13"
        yield Finding("warn", "GPU", "this torch is built for the CPU alone", fix)
    else:
        fix = "none needed for the CPU recipes; else check the driver with nvidia-smi"
        yield Finding("warn", "GPU", "torch sees none", fix)


def _sandbox() -> Finding:
    """Whether model-written programs would be confined here, by attempts to break out."""
    try:
        return Finding("ok", "sandbox", describe_tier())
    except SandboxError as error:
        fix = "none needed without code problems; else a container that allows seccomp filters"
        return Finding("warn", "sandbox", str(error), fix)

"""What `vibelite doctor` finds of this machine, whatever the recipe."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vibelite import __version__
from vibelite.errors import SandboxError
from vibelite.hints import CHECKOUT, install, is_installed, setup
from vibelite.units import GIB

if TYPE_CHECKING:
    from packaging.requirements import Requirement


Status = Literal["ok", "warn", "fail"]
# Quickstart peaks at 0.8 GB of resident memory on a CPU; the rest is margin.
MEMORY_NEEDED_GIB = 2
# Those whose releases are built for one version of another package.
PINNING_PACKAGES = (
    "vllm", "unsloth", "unsloth_zoo", "torchvision", "torchaudio", "bitsandbytes", "peft",
    "accelerate", "transformers", "datasets", "trl", "xformers", "flash-attn", "triton",
)  # fmt: skip
EXTRA = re.compile(r"""extra == ['"]([^'"]+)""")
SHARED_MEMORY = Path("/dev/shm")
HUB_SECONDS = 5.0
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
    """Looks at the Python, the packages and what they need of each other, memory, disks, torch,
    GPUs and their driver, the sandbox and the hub.
    """
    return [
        _python(),
        _itself(),
        *_packages(),
        *_conflicts(),
        _memory(),
        *_shared_memory(),
        _disk("working directory", Path.cwd()),
        _disk("Hugging Face cache", _cache_directory()),
        _disk("temporary directory", Path(tempfile.gettempdir())),
        *_torch(),
        _sandbox(),
        _hub(),
    ]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info < (3, 13):
        return Finding("ok", "python", version)
    return Finding("fail", "python", version, f"install Python 3.12, and with it: {setup()}")


def _itself() -> Finding:
    where = "installed" if is_installed() else f"not installed, run from {CHECKOUT}"
    return Finding("ok", "vibelite", f"{__version__}, {where}")


def needs_of(package: str) -> Iterator[tuple[Requirement, str, str | None]]:
    """What a distribution needs on this machine: each requirement, the extra that it belongs to (""
    = none), and which version of it is installed.
    """
    from packaging.requirements import Requirement

    for requirement in map(Requirement, _requirements(package)):
        found = EXTRA.search(str(requirement.marker))
        extra = found[1] if found else ""
        if not requirement.marker or requirement.marker.evaluate({"extra": extra}):
            yield requirement, extra, installed_version(requirement.name)


def _requirements(package: str) -> list[str]:
    """As the package states them; those of a checkout that is not installed are its project's."""
    if package != "vibelite" or is_installed():
        return metadata.requires(package) or []
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].items()
    return [
        *project["dependencies"],
        *(f'{one}; extra == "{extra}"' for extra, them in extras if extra != "dev" for one in them),
    ]


def installed_version(package: str) -> str | None:
    """The version of a distribution; None = not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def is_met(requirement: Requirement, installed: str) -> bool:
    return requirement.specifier.contains(installed, prereleases=True)


def _packages() -> Iterator[Finding]:
    """The requirements of the installed package itself, so that there is no second list. Packages
    of extras may be missing.
    """
    for needed, extra, installed in needs_of("vibelite"):
        if extra == "dev" or (extra and installed is None):
            continue
        subject = f"{needed.name} (for {extra})" if extra else needed.name
        wanted = f"{needed.name}{needed.specifier}"
        if installed is None:
            yield Finding("fail", subject, "not installed", install(wanted))
        elif is_met(needed, installed):
            yield Finding("ok", subject, installed)
        elif extra:
            tested = f"{installed}, tested with {needed.specifier}"
            yield Finding("warn", subject, tested, install(wanted))
        else:
            needs = f"{installed}, needs {needed.specifier}"
            yield Finding("fail", subject, needs, install(wanted))


def _conflicts() -> Iterator[Finding]:
    """What installed packages say they need of each other, and do not get: a vllm that is built for
    another torch is found, and imports, and ends a run where it is first used.
    """
    required = {needed.name for needed, extra, _ in needs_of("vibelite") if not extra}
    for package in PINNING_PACKAGES:
        version = installed_version(package)
        for needed, extra, installed in needs_of(package) if version is not None else ():
            # A package that is missing is told by whatever imports it.
            if extra or installed is None or is_met(needed, installed):
                continue
            wants = f"{package} {version} needs {needed.name}{needed.specifier}, not {installed}"
            fix = f"{install(package)}, or do without {package}"
            status = "fail" if package in required else "warn"
            yield Finding(status, f"{package} and {needed.name}", wants, fix)


def _free(subject: str, free: float, needed_gib: float, fix: str, of: str = "") -> Finding:
    """Whether `free` bytes are enough; if not, `fix` is advised."""
    status: Status = "ok" if free >= needed_gib * GIB else "warn"
    return Finding(status, subject, f"{free / GIB:.1f} GiB free{of}", "" if status == "ok" else fix)


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    fix = "close other programs: quickstart needs 2 GiB"
    of = f" of {memory.total / GIB:.1f}"
    return _free("memory", memory.available, MEMORY_NEEDED_GIB, fix, of)


def _shared_memory() -> Iterator[Finding]:
    """Containers get 64 MB unless told otherwise, and vLLM's processes talk through it."""
    if SHARED_MEMORY.exists():
        free = shutil.disk_usage(SHARED_MEMORY).free
        fix = "none needed on a CPU; for vLLM: docker run --shm-size=8g"
        yield _free("shared memory", free, 1, fix, f" in {SHARED_MEMORY}")


def _disk(subject: str, path: Path) -> Finding:
    while not path.exists():
        path = path.parent
    if not os.access(path, os.W_OK):
        return Finding("fail", subject, f"{path} cannot be written", "choose another directory")
    fix = f"free {DISK_NEEDED_GIB} GiB, or use another disk"
    return _free(subject, shutil.disk_usage(path).free, DISK_NEEDED_GIB, fix, f" in {path}")


def _cache_directory() -> Path:
    """Where Hugging Face libraries put what they download (their documented variables)."""
    root = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("HF_HOME", f"{root}/huggingface")).expanduser()


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("fail", "torch", f"cannot be imported: {error}", setup())
        return
    yield Finding("ok", "CPU threads of torch", str(torch.get_num_threads()))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(index)
            detail = (
                f"{gpu.name}, {gpu.total_memory / GIB:.0f} GiB, compute {gpu.major}.{gpu.minor}"
            )
            yield Finding("ok", f"GPU {index}", detail)
        if torch.version.cuda is not None:
            yield from _driver(torch.version.cuda)
    elif torch.version.cuda is None:
        fix = "none needed for the CPU recipes; for a GPU install a CUDA build of torch 2.13"
        yield Finding("warn", "GPU", "this torch is built for the CPU alone", fix)
    else:
        fix = "none needed for the CPU recipes; else check the driver with nvidia-smi"
        yield Finding("warn", "GPU", "torch sees none", fix)
        yield from _driver(torch.version.cuda)


def _driver(cuda: str) -> Iterator[Finding]:
    """The NVIDIA driver, whether it knows torch's `cuda`, and whether the energy can be read."""
    try:
        import pynvml  # pyright: ignore[reportMissingImports]
    except ImportError:
        fix = install("nvidia-ml-py")
        yield Finding("warn", "GPU driver", "unknown, and so is energy: no nvidia-ml-py", fix)
        return
    try:
        pynvml.nvmlInit()
        version = pynvml.nvmlSystemGetDriverVersion()
        newest = pynvml.nvmlSystemGetCudaDriverVersion_v2() // 1000  # 13000 is CUDA 13.0
        num_gpus = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        fix = "none needed for the CPU recipes; else install or load the NVIDIA driver"
        yield Finding("warn", "GPU driver", str(error), fix)
        return
    detail = f"{version}, knows CUDA {newest}; {num_gpus} GPUs"
    needed = int(cuda.partition(".")[0])
    if newest >= needed:
        yield Finding("ok", "GPU driver", detail)
    else:
        fix = f"update the driver, or install a torch for CUDA {newest}"
        yield Finding("fail", "GPU driver", f"{detail}, but torch is for CUDA {cuda}", fix)
    for index in range(num_gpus):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        except pynvml.NVMLError as error:
            fix = "none: energy stays unknown; a GPU before Volta, or a part of one, has no counter"
            yield Finding("warn", f"energy of GPU {index}", str(error), fix)
        else:
            yield Finding("ok", f"energy of GPU {index}", "is counted")


def _hub() -> Finding:
    """Whether models and data sets can be fetched. Sends nothing but the request itself."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        fix = "none needed for what is in the cache; else unset HF_HUB_OFFLINE"
        return Finding("warn", "hub", "not asked: HF_HUB_OFFLINE is set", fix)
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        request = urllib.request.Request(endpoint, method="HEAD")
        with urllib.request.urlopen(request, timeout=HUB_SECONDS):
            return Finding("ok", "hub", f"{endpoint} answers")
    except urllib.error.HTTPError as error:
        reason = f"{endpoint} answers with status {error.code}"
    except (OSError, ValueError) as error:  # refused, unknown, too slow; or no address at all
        reason = f"{endpoint} cannot be reached ({error})"
    fix = "none needed for the quickstart; else HTTPS_PROXY, HF_ENDPOINT, or local files (path:)"
    return Finding("warn", "hub", reason, fix)


def _sandbox() -> Finding:
    """Whether model-written programs would be confined here, by attempts to break out."""
    from vibelite.rewards.sandbox import describe_tier

    try:
        return Finding("ok", "sandbox", describe_tier())
    except SandboxError as error:
        fix = "none needed without code problems; else a container that allows seccomp filters"
        return Finding("warn", "sandbox", str(error), fix)

"""What one test could leave behind for the next in the same process, compared and restored."""

from __future__ import annotations

import decimal
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Set by pytest for each test, and by libraries for themselves, most of them on import.
_FREE = ("PYTEST_", "KMP_", "CUDA_", "TORCHINDUCTOR_")
# vLLM, and what it imports on a GPU, set these in the process that they run in.
_VLLMS = (
    "VLLM_",
    "AITER_",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LOCAL_WORLD_SIZE",
    "NUMEXPR_MAX_THREADS",
    "TILELANG_",
    "TORCHDYNAMO_DISABLE",
    "PYTORCH_NVML_BASED_CUDA_CHECK",
    "TRITON_CACHE_AUTOTUNING",
    "TRITON_PRINT_AUTOTUNING",
)


@dataclass(frozen=True)
class ProcessState:
    """Environment and working directory; torch's settings always have to be torch's own."""

    environment: dict[str, str]
    directory: Path

    @staticmethod
    def now() -> ProcessState:
        return ProcessState(_environment(), Path.cwd())

    def restore(self) -> list[str]:
        """Undoes every change; returns what was changed, in words."""
        left = []
        free = _VLLMS if "vllm" in sys.modules else ()
        for name in sorted(self.environment.keys() | _environment().keys()):
            if name.startswith(free):
                continue
            before, after = self.environment.get(name), os.environ.get(name)
            if before != after:
                left.append(f"{name} is {after!r}, was {before!r}")
                os.environ.pop(name, None)
                if before is not None:
                    os.environ[name] = before
        if _working_directory() != self.directory:
            left.append(f"the working directory is {_working_directory()}")
            os.chdir(self.directory)
        if decimal.getcontext().prec != decimal.DefaultContext.prec:
            left.append(f"decimals have {decimal.getcontext().prec} digits")
            decimal.setcontext(decimal.DefaultContext.copy())
        return left + _restore_torch()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(_FREE)}


def _working_directory() -> Path | None:
    """None for a directory that is gone."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


def _restore_torch() -> list[str]:
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_float32_matmul_precision"):
        return []
    settings: list[tuple[str, Any, Callable[[], Any], Callable[[Any], Any]]] = [
        ("threads", 1, torch.get_num_threads, torch.set_num_threads),
        ("default dtype", torch.float32, torch.get_default_dtype, torch.set_default_dtype),
        ("deterministic algorithms", False, torch.are_deterministic_algorithms_enabled,
         torch.use_deterministic_algorithms),
        ("gradients", True, torch.is_grad_enabled, torch.set_grad_enabled),
        ("matmul precision", "highest", torch.get_float32_matmul_precision,
         torch.set_float32_matmul_precision),
    ]  # fmt: skip
    left = []
    for name, usual, get, put in settings:
        if (value := get()) != usual:
            left.append(f"torch's {name}: {value}")
            put(usual)
    return left

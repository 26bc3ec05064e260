"""What the shipped tiles compile to, without a GPU: no spills, within shared memory, and the
instructions each architecture is chosen for. A Triton release that loses one of them fails here.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.kernels.problems import INTERPRETED, make_case
from vibelite.kernels import HeadCall

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")

SHARED_BYTES = {80: 163 << 10, 89: 99 << 10, 90: 227 << 10, 120: 99 << 10}
# 89 and 120 take the tiles of 80: what they add is less shared memory.
ARCHITECTURES = [80, 90, *(pytest.param(other, marks=pytest.mark.slow) for other in (89, 120))]
POINTERS = {"partial", "target_logit"}
FLOATS = {"softcap", "scale"}
ALIGNED = {"H", "N", "V", "hidden_stride", "weight_stride", "exps_stride"}


def kernel_source(name: str, tile: Any, constants: dict[str, object]) -> Any:
    """The kernel with the types and divisibilities that a launch on bf16 inputs would have."""
    from triton.compiler import ASTSource

    from vibelite.kernels import triton_kernels

    kernel = getattr(triton_kernels, name)
    blocks = {"hidden": (tile.rows, tile.depth), "weight": (tile.columns, tile.depth)}
    blocks |= {"exps": (tile.rows, tile.columns)}
    types: dict[str, str] = {}
    for argument in kernel.arg_names:
        if argument in constants:
            types[argument] = "constexpr"
        elif argument in blocks and tile.use_tma:
            rows, columns = blocks[argument]
            types[argument] = f"tensordesc<bf16[{rows}, {columns}]>"
        elif argument in blocks or argument == "bias":
            types[argument] = "*bf16"
        elif argument in POINTERS:
            types[argument] = "*fp32"
        else:
            types[argument] = "fp32" if argument in FLOATS else "i32"
    aligned = [
        (position,)
        for position, (argument, kind) in enumerate(types.items())
        if kind.startswith("*") or argument in ALIGNED
    ]
    positions = {argument: position for position, argument in enumerate(kernel.arg_names)}
    return ASTSource(
        fn=kernel,
        signature=types,
        constexprs={(positions[argument],): value for argument, value in constants.items()},
        attrs={position: [["tt.divisibility", 16]] for position in aligned},
    )


def compile_kernel(
    name: str, architecture: int, tile: Any, *, with_bias_and_softcap: bool
) -> tuple[int, int, dict[str, int]]:
    """Bytes of stack, bytes of shared memory, and counts of instructions."""
    from triton.backends.compiler import GPUTarget

    constants: dict[str, object] = {
        "BM": tile.rows,
        "BN": tile.columns,
        "BK": tile.depth,
        "EVEN_K": True,
        "USE_TMA": tile.use_tma,
        "WIDEN": False,
        "HAS_BIAS": with_bias_and_softcap,
        "HAS_SOFTCAP": with_bias_and_softcap,
    }
    if not with_bias_and_softcap:
        constants["bias"] = None
    compiled = triton.compile(
        kernel_source(name, tile, constants),
        target=GPUTarget("cuda", architecture, 32),
        options={"num_warps": tile.num_warps, "num_stages": tile.num_stages},
    )
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.TemporaryDirectory() as directory:
        binary = Path(directory) / "kernel.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        dumps = [
            subprocess.run([tool, flag, binary], capture_output=True, text=True, check=True).stdout
            for flag in ("-res-usage", "-sass")
        ]
    stack = re.search(r"STACK:(\d+)", dumps[0])
    assert stack is not None, dumps[0]
    counts = {
        opcode: len(re.findall(rf"\b{opcode}", dumps[1]))
        for opcode in ("HGMMA", "UTMALDG", "UTMASTG", "HMMA", "LDGSTS", "LDL", "STL")
    }
    return int(stack.group(1)), compiled.metadata.shared, counts


@pytest.mark.parametrize("with_bias_and_softcap", [False, True], ids=["plain", "bias-softcap"])
@pytest.mark.parametrize("kernel", ["forward_kernel", "exp_kernel"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_shipped_tiles_compile_without_spills(
    architecture: int, kernel: str, with_bias_and_softcap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vibelite.kernels import triton_launch

    with tempfile.TemporaryDirectory() as cache:
        monkeypatch.setitem(os.environ, "TRITON_CACHE_DIR", cache)
        tiles = [triton_launch.AMPERE]
        if architecture == 90:
            tiles = [triton_launch.HOPPER_WIDE]
            if kernel == "forward_kernel":
                tiles.append(triton_launch.HOPPER_NARROW)
        for tile in tiles:
            stack, shared, counts = compile_kernel(
                kernel, architecture, tile, with_bias_and_softcap=with_bias_and_softcap
            )
            assert (stack, counts["LDL"], counts["STL"]) == (0, 0, 0), (tile, counts)
            assert shared <= SHARED_BYTES[architecture]
            if architecture == 90:
                assert counts["HGMMA"] > 0
                assert counts["UTMALDG"] > 0
                assert (counts["UTMASTG"] > 0) == (kernel != "forward_kernel")
            else:
                assert counts["HMMA"] > 0
                assert counts["LDGSTS"] > 0


@pytest.mark.parametrize(
    ("capability", "is_hopper"),
    [((8, 0), False), ((8, 9), False), ((9, 0), True), ((12, 0), False)],
)
def test_only_hopper_takes_tiles_that_need_its_shared_memory(
    capability: tuple[int, int], is_hopper: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vibelite.kernels import triton_launch

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    case = make_case(4, 64, 16, dtype=torch.bfloat16)
    call = HeadCall(case.hidden, case.weight, case.targets)
    assert triton_launch.dz_tile(call).use_tma == is_hopper
    assert triton_launch.forward_tile(call).use_tma == is_hopper

"""The Triton kernels of the box operators: interpreted, and compiled ahead of time with no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .building import ROOT
from .disassembly import instructions, resources

triton = pytest.importorskip("triton")

CAPABILITIES = (80, 90, 100, 120)
LEVELS = 5
MOST_REGISTERS = 128  # a thread, for four programs of 128 threads an SM
TYPES = ("*fp32", "*bf16", "*fp16")


def test_interpreted() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.kernels.interpreted_boxes"],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.strip() == "interpreted"


def compiled(
    kernel: Any, given: dict[str, str], constants: dict[str, Any], capability: int, folder: Path
) -> Path:
    """A kernel's machine code for P levels; pointers and channels are multiples of 16."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    lists = ("maps", "grads", "pooled", "values", "heights", "widths", "first")
    signature: dict[str, Any] = {}
    aligned: list[tuple[int, ...]] = []
    for place, name in enumerate(kernel.arg_names):
        kind = given.get(name, "constexpr")
        signature[name] = (kind,) * LEVELS if name in lists else kind
        if kind.startswith("*") or name == "channels":
            aligned += [(place, level) for level in range(LEVELS)] if name in lists else [(place,)]
    source = ASTSource(
        kernel,
        signature=signature,
        constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
        attrs={place: [["tt.divisibility", 16]] for place in aligned},
    )
    options = {"num_warps": 4, "enable_fp_fusion": "windows" not in kernel.__name__}
    binary = folder / f"{kernel.__name__}.cubin"
    code = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    binary.write_bytes(code.asm["cubin"])
    return binary


def arguments(maps: str, boxes: str, index: str) -> dict[str, str]:
    """The types of all arguments of all kernels, by name."""
    sizes = ("heights", "widths", "first", "image_height", "image_width", "count", "batch")
    return (
        dict.fromkeys((*sizes, "channels", "classes", "groups"), "i32")
        | dict.fromkeys(("maps", "grads", "pooled", "values", "embedding"), maps)
        | dict.fromkeys(("order", "start", "labels"), "*i64")
        | dict.fromkeys(("numbers", "strength", "partials"), "*fp32")
        | {"boxes": boxes, "image_index": index, "assigned": "*u8", "windows": "*i32"}
    )


def kernels_with_constants(case: int) -> list[tuple[Any, dict[str, Any]]]:
    """Every kernel as one launch compiles it; profiles, formats and combinations in turn."""
    from sssd.ops.triton import box_geometry, box_kernels, heatmap_kernels
    from sssd.ops.triton.boxes import CHANNELS, OBJECT_CELLS, OBJECTS, TILE_CELLS
    from sssd.ops.triton.heatmap import HEATMAP_CELLS, STRIP_TILES

    profile, flag = case % 4, case % 2 == 0
    boxes = {"LAST": flag, "MEAN": not flag, "CHANNELS": CHANNELS}
    windows = {"PROFILE": profile, "OVERLAP": 0.7, "ASSIGNED": flag, "BLOCK": OBJECTS}
    draw = {"PROFILE": profile, "MAX": flag, "STRENGTH": True}
    embed = draw | {"CHANNELS": CHANNELS, "BLOCK": TILE_CELLS}
    return [
        (box_geometry.windows_kernel, windows),
        (box_kernels.pool_kernel, boxes | {"BLOCK": OBJECT_CELLS}),
        (box_kernels.paint_kernel, boxes | {"BLOCK": TILE_CELLS}),
        (heatmap_kernels.heatmap_kernel, draw | {"BLOCK": HEATMAP_CELLS}),
        (heatmap_kernels.embed_kernel, embed),
        (heatmap_kernels.embed_backward_kernel, embed | {"TILES": STRIP_TILES}),
    ]


@pytest.mark.parametrize("case", range(4))
def test_compiles_without_spills(case: int, tmp_path: Path) -> None:
    """Each architecture with its own profile, types and options."""
    types = arguments(TYPES[case % 3], ("*fp32", "*fp64")[case % 2], ("*i64", "*i32")[case % 2])
    for kernel, constants in kernels_with_constants(case):
        given = {name: types[name] for name in kernel.arg_names if name in types}
        binary = compiled(kernel, given, constants, CAPABILITIES[case], tmp_path)
        for name, used in resources(binary).items():
            assert used["STACK"] == 0, f"{name}: {used}"
            assert used["LOCAL"] == 0, f"{name}: {used}"
            assert used["REG"] <= MOST_REGISTERS, f"{name}: {used}"


def test_channels_last_tiles_move_by_vectors_and_nothing_is_atomic(tmp_path: Path) -> None:
    types = arguments("*fp32", "*fp32", "*i64")
    for kernel, constants in kernels_with_constants(0)[1:3]:
        given = {name: types[name] for name in kernel.arg_names if name in types}
        (used,) = instructions(compiled(kernel, given, constants, 90, tmp_path)).values()
        moved = "LDG" if "pool" in kernel.__name__ else "STG"
        assert any(i.startswith(moved) and ".128" in i for i in used), used
        assert not [i for i in used if i.split(".")[0] in ("ATOM", "ATOMG", "RED")]

"""The Triton kernels: interpreted against fp64, and compiled ahead of time with no GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .building import ROOT
from .disassembly import resources

triton = pytest.importorskip("triton")

CAPABILITIES = (80, 90, 100, 120)
MAPS = {"fp32": "*fp32", "bf16": "*bf16", "mixed": "*fp16"}


def test_interpreted() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.kernels.interpreted"],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.strip() == "interpreted"


def compiled(kernel: Any, given: dict[str, Any], constants: dict[str, Any], capability: int) -> Any:
    """A kernel's machine code; nothing is said of sizes and addresses but by its constants."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {name: given.get(name, "constexpr") for name in kernel.arg_names}
    source = ASTSource(
        kernel,
        signature=signature,
        constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
    )
    return triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4}
    )


def arguments(types: str) -> dict[str, Any]:
    """Of five levels."""
    floats = ("scale", "beta", "eps", "gradient_scale")
    pointers = ("saved", "partials", "stats", "sums", "values", "factors", "grad_values")
    student, teacher = (
        (x,) * 5 for x in (MAPS[types], "*fp32" if types == "mixed" else MAPS[types])
    )
    return (
        dict.fromkeys(("all_rows", "slots"), "i32")
        | dict.fromkeys(floats, "fp32")
        | dict.fromkeys(pointers, "*fp32")
        | {"levels": (("i32",) * 12,) * 5, "numbers": ("i32",) * 5, "weights": ("*fp32",) * 5}
        | {"students": student, "grad_students": student}
        | {"teachers": teacher, "grad_teachers": teacher}
    )


def built(kernel: Any, types: str, constants: dict[str, Any], capability: int) -> Any:
    """With what the kernel takes of all constants."""
    names = kernel.arg_names
    return compiled(
        kernel,
        {key: value for key, value in arguments(types).items() if key in names},
        {key: value for key, value in constants.items() if key in names},
        capability,
    )


def constants(member: int, strided: bool, split: bool) -> dict[str, Any]:
    """Of all kernels."""
    shape = {"ROWS": 32, "BLOCK": 32} if strided else {"ROWS": 1, "BLOCK": 1024}
    kind = {"STRIDED": strided, "SEGMENTED": split and not strided, "SPLIT": split, "ALIGNED": True}
    call = {"MEMBER": member, "ROOT": 1, "MEAN_ELEMENTS": True, "HAS_WEIGHTS": True}
    affine = {"NORMALIZE": 1 if member == 4 else 0, "COSINE": False, "NORMALIZED": member == 4}
    return shape | kind | call | affine | {"NEED_STUDENT": True, "NEED_TEACHER": True}


@pytest.mark.parametrize("member", range(5))
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_compiles_without_spills(capability: int, member: int, tmp_path: Path) -> None:
    from sssd.ops.triton import divergence_kernels as kernels

    index = CAPABILITIES.index(capability)  # either layout, every type, whole and split, in turn
    strided, types = (member + index) % 2 == 1, list(MAPS)[(member + index) % 3]
    given = constants(member, strided, split=(member + index) % 4 > 1)
    for kernel in (
        kernels.statistics_kernel,
        kernels.forward_kernel,
        kernels.rows_kernel,
        kernels.backward_kernel,
    ):
        rows = {"ROWS": 32} if kernel is kernels.rows_kernel else {}
        binary = tmp_path / f"{kernel.__name__}.cubin"
        binary.write_bytes(built(kernel, types, given | rows, capability).asm["cubin"])
        for name, used in resources(binary).items():
            assert used["STACK"] == 0, f"{name}: {used}"
            assert used["LOCAL"] == 0, f"{name}: {used}"


@pytest.mark.parametrize("strided", [False, True])
def test_vectors_of_128_bits_and_offsets_of_64(strided: bool, tmp_path: Path) -> None:
    from sssd.ops.triton import divergence_kernels as kernels

    from .disassembly import instructions

    for kernel, access in ((kernels.forward_kernel, "LDG"), (kernels.backward_kernel, "STG")):
        code = built(kernel, "fp32", constants(0, strided, split=False), 90)
        binary = tmp_path / "kernel.cubin"
        binary.write_bytes(code.asm["cubin"])
        (used,) = instructions(binary).values()
        assert any(name.startswith(access) and ".128" in name for name in used), kernel.__name__
        # More than 2^31 elements: every offset into a map is a 64-bit number.
        blocks = [line for line in code.asm["ttir"].splitlines() if "tt.addptr" in line]
        of_maps = [line for line in blocks if re.search(r"tensor<\d+x\d+x!tt.ptr", line)]
        assert of_maps
        assert all("xi64>" in line for line in of_maps), of_maps

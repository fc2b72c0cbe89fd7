"""The Triton kernels: interpreted against fp64, and compiled ahead of time with no GPU."""

from __future__ import annotations

import itertools
import os
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


def compiled(kernel: Any, given: dict[str, str], constants: dict[str, Any], capability: int) -> Any:
    """A kernel's machine code; pointers and sizes divisible by 16, as those of real maps are."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {name: given.get(name, "constexpr") for name in kernel.arg_names}
    aligned = [
        name.startswith(("student", "teacher", "grad_s", "grad_t"))
        or name in ("inner", "outer_stride", "length", "segment_stride")
        for name in kernel.arg_names
    ]
    source = ASTSource(
        kernel,
        signature=signature,
        constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i, yes in enumerate(aligned) if yes},
    )
    return triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4}
    )


def arguments(types: str) -> dict[str, str]:
    sizes = ("outer", "segments", "length", "inner", "outer_stride", "segment_stride", "row0")
    floats = ("scale", "beta", "eps", "variance_of", "element_scale", "gradient_scale")
    pointers = ("weights", "saved", "partials", "factor", "grad_value")
    teacher = "*fp32" if types == "mixed" else MAPS[types]
    return (
        dict.fromkeys((*sizes, "all_rows"), "i32")
        | dict.fromkeys(floats, "fp32")
        | dict.fromkeys(pointers, "*fp32")
        | {"student": MAPS[types], "grad_student": MAPS[types]}
        | {"teacher": teacher, "grad_teacher": teacher}
    )


@pytest.mark.parametrize("member", range(5))
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_compiles_without_spills(capability: int, member: int, tmp_path: Path) -> None:
    from sssd.ops.triton import divergence_kernels as kernels

    index = CAPABILITIES.index(capability)  # either layout, every type, in turn
    strided, types = (member + index) % 2 == 1, list(MAPS)[(member + index) % 3]
    shape = {"ROWS": 32, "BLOCK": 32} if strided else {"ROWS": 1, "BLOCK": 1024}
    common = {"MEMBER": member, "ROOT": 1, "HAS_WEIGHTS": True, "STRIDED": strided}
    common |= {"SEGMENTED": not strided, **shape}
    forward = common | {"NORMALIZE": 1 if member == 4 else 0, "COSINE": False}
    backward = common | {"NORMALIZED": True, "NEED_STUDENT": True, "NEED_TEACHER": True}
    for kernel, constants in (
        (kernels.forward_kernel, forward),
        (kernels.backward_kernel, backward),
    ):
        given = {k: v for k, v in arguments(types).items() if k in kernel.arg_names}
        binary = tmp_path / f"{kernel.__name__}.cubin"
        binary.write_bytes(compiled(kernel, given, constants, capability).asm["cubin"])
        for name, used in resources(binary).items():
            assert used["STACK"] == 0, f"{name}: {used}"
            assert used["LOCAL"] == 0, f"{name}: {used}"


def test_vectors_of_128_bits(tmp_path: Path) -> None:
    from sssd.ops.triton import divergence_kernels as kernels

    from .disassembly import instructions

    constants = {"MEMBER": 0, "ROOT": 1, "HAS_WEIGHTS": False, "SEGMENTED": False, "NORMALIZE": 0}
    constants |= {"COSINE": False}
    for strided, capability in itertools.product((False, True), (90,)):
        shape = {"ROWS": 32, "BLOCK": 32} if strided else {"ROWS": 1, "BLOCK": 1024}
        given = {
            k: v for k, v in arguments("fp32").items() if k in kernels.forward_kernel.arg_names
        }
        code = compiled(
            kernels.forward_kernel, given, constants | {"STRIDED": strided, **shape}, capability
        )
        binary = tmp_path / "forward.cubin"
        binary.write_bytes(code.asm["cubin"])
        (used,) = instructions(binary).values()
        assert any(name.startswith("LDG") and ".128" in name for name in used), strided

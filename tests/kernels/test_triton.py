"""The Triton kernels: interpreted, compiled ahead of time with no GPU, and counted by the JIT."""

from __future__ import annotations

import itertools
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.kernels.building import ROOT
from tests.kernels.disassembly import instructions, resources

triton = pytest.importorskip("triton")

CAPABILITIES = (75, 80, 90, 120)
MOST_REGISTERS = 128  # a thread, for four programs of 128 threads an SM
# Bytes of a thread's stack. On sm_120 ptxas keeps an address of some backward kernels there, stored
# before the loop over elements and loaded once a round, among hundreds of instructions.
MOST_STACK = {75: 0, 80: 0, 90: 0, 120: 8}
INDICES = ("order", "start", "image_index")
FLOATS = ("scale", "eps")
SINGLE = ("stats", "sums", "saved", "slopes", "numbers", "strength")  # always float32


@pytest.mark.parametrize("program", ["interpreted", "interpreted_boxes"])
def test_interpreted(program: str) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"tests.kernels.{program}"],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.strip() == "interpreted"


# ---- ahead of time -------------------------------------------------------------------------------


def compiled(kernel: Any, maps: str, constants: dict[str, Any], capability: int) -> Any:
    """A kernel's code, as the JIT compiles it: nothing is known of sizes and addresses."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, constexprs = {}, {}
    for place, param in enumerate(kernel.params):
        if param.is_constexpr:
            signature[param.name] = "constexpr"
            constexprs[(place,)] = constants[param.name]
        elif param.annotation_type:
            signature[param.name] = param.annotation_type
        elif param.name in FLOATS:
            signature[param.name] = "fp32"
        elif param.name in SINGLE:
            signature[param.name] = "*fp32"
        elif param.name == "spans":
            signature[param.name] = "*i32"
        else:
            signature[param.name] = "*i64" if param.name in INDICES else maps
    source = ASTSource(kernel, signature=signature, constexprs=constexprs)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_warps": 4})


CASES = [
    ("softmax", "js"), ("softmax", "kl"), ("softmax", "mse"), ("standardize", "mse"),
    ("none", "cosine"), ("none", "mse"),
]  # fmt: skip


def divergence_kernels(case: int, strided: bool) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Every kernel of one normalisation and divergence, as the launches compile it."""
    from sssd.ops.divergence_kernels import number
    from sssd.ops.triton import divergence, divergence_kernels

    normalize, kind = number("normalize", CASES[case][0]), number("divergence", CASES[case][1])
    rows, block = divergence.TILES[strided]
    constants = {
        "DIVERGENCE": kind, "NORMALIZE": normalize, "STRIDED": strided, "ROWS": rows,
        "BLOCK": block, "NEED_STUDENT": True, "NEED_TEACHER": True,
    }  # fmt: skip
    if CASES[case] != ("none", "mse"):
        yield divergence_kernels.statistics_kernel, constants
    yield divergence_kernels.terms_kernel, constants
    yield divergence_kernels.backward_kernel, constants


def box_kernels(case: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The box kernels; profiles, formats and combinations in turn."""
    from sssd.ops.triton import boxes

    flag = case % 2 == 0
    for kernel in (boxes.pool_kernel, boxes.paint_kernel):
        sizes = {"CHANNELS": boxes.CHANNELS, "BLOCK": boxes.CELLS}
        yield kernel, {"LAST": flag, "MEAN": not flag} | sizes
    heat = {"PROFILE": case % 3, "MAX": flag, "STRENGTH": flag, "BLOCK": boxes.HEATMAP_CELLS}
    yield boxes.heatmap_kernel, heat


def binary_of(code: Any, folder: Path) -> Path:
    binary = folder / "kernel.cubin"
    binary.write_bytes(code.asm["cubin"])
    return binary


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_compiles_without_spills(capability: int, tmp_path: Path) -> None:
    """Every divergence in either layout on the newest architecture, on the others in turn; every
    box kernel on each.
    """
    index = CAPABILITIES.index(capability)
    half = "*fp16" if capability < 80 else "*bf16"
    for case, strided in itertools.product(range(len(CASES)), (False, True)):
        if index == 3 or (case + 2 * strided) % 3 == index:
            types = ("*fp32", half)[(case // 2 + strided) % 2]
            for kernel, constants in divergence_kernels(case, strided):
                code = compiled(kernel, types, constants, capability)
                assert_no_spills(binary_of(code, tmp_path), MOST_STACK[capability])
    for kernel, constants in box_kernels(index):
        types = ("*fp16", "*bf16", "*fp32", "*fp16")[index]
        code = compiled(kernel, types, constants, capability)
        assert_no_spills(binary_of(code, tmp_path))


def assert_no_spills(binary: Path, stack: int = 0) -> None:
    ((name, used),) = resources(binary).items()
    assert used["STACK"] <= stack, f"{name}: {used}"
    assert used["LOCAL"] == 0, f"{name}: {used}"
    assert used["REG"] <= MOST_REGISTERS, f"{name}: {used}"


@pytest.mark.parametrize("strided", [False, True])
def test_lanes_follow_memory_offsets_are_of_64_bits_and_nothing_is_atomic(
    strided: bool, tmp_path: Path
) -> None:
    for kernel, constants in divergence_kernels(0, strided):
        code = compiled(kernel, "*fp32", constants, 90)
        # The loads of maps, (rows, elements): neighbouring lanes are neighbours in memory.
        layouts = dict(re.findall(r"(#blocked\d*) = #ttg.blocked<\{.*?order = (\[.*?\])",
                                  code.asm["ttgir"]))  # fmt: skip
        rows, block = constants["ROWS"], constants["BLOCK"]
        of_maps = re.findall(rf"tt.load .*tensor<{rows}x{block}x!tt.ptr<f32>, (#blocked\d*)>",
                             code.asm["ttgir"])  # fmt: skip
        assert of_maps
        assert {layouts[name] for name in of_maps} == {"[0, 1]" if strided else "[1, 0]"}
        # More than 2^31 elements: every offset into a map is a 64-bit number.
        adds = [line for line in code.asm["ttir"].splitlines() if "tt.addptr" in line]
        blocks = [line for line in adds if re.search(r"tensor<\d+x\d+x!tt.ptr", line)]
        assert blocks
        assert all("xi64>" in line for line in blocks), blocks
        (used,) = instructions(binary_of(code, tmp_path)).values()
        assert not [i for i in used if i.split(".")[0] in ("ATOM", "ATOMG", "RED")]


# ---- layouts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [False, True])
def test_rows_hold_the_elements_that_the_reference_reduces(last: bool) -> None:
    from sssd.ops.reference.divergence import REDUCED
    from sssd.ops.triton.divergence import layout_of

    for over, *shape in product(REDUCED, (1, 2, 3), (1, 2, 5), (1, 3), (1, 4)):
        images, channels, height, width = shape
        places = torch.arange(images * channels * height * width)  # in memory
        x = places.view(shape)
        if last:
            x = places.view(images, height, width, channels).permute(0, 3, 1, 2)
        kept = [d for d in range(4) if d not in REDUCED[over]]
        seen = layout_of(x, over)
        row, segment, element = torch.meshgrid(
            torch.arange(seen.rows), torch.arange(seen.pieces // seen.parts),
            torch.arange(seen.length), indexing="ij",
        )  # fmt: skip
        at = row // seen.inner * seen.outer_stride + row % seen.inner
        at = at + segment * seen.segment_stride + element * seen.inner
        expected = x.permute(*kept, *REDUCED[over]).reshape(seen.rows, -1)
        found = at.flatten(1).sort(1).values
        assert torch.equal(found, expected.sort(1).values), (over, shape)


# ---- variants ------------------------------------------------------------------------------------


@pytest.fixture
def variants(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often each kernel is compiled: the JIT runs as on an H100 but for compiler and launch."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction, _triton_jit_function_registry

    counts: Counter[str] = Counter()

    def compile_nothing(self: Any, key: Any, *args: Any, **kwargs: Any) -> Any:
        counts[self.fn.__name__] += 1
        kernel = SimpleNamespace(
            launch_metadata=lambda *_: None, run=lambda *_: None, function=0, packed_metadata=0
        )
        self.device_caches["mock"][0][key] = kernel
        return kernel

    device = SimpleNamespace(
        get_current_device=lambda: "mock",
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
    )
    monkeypatch.setattr(driver, "_active", device)
    monkeypatch.setattr(JITFunction, "_do_compile", compile_nothing)
    yield counts
    for function in _triton_jit_function_registry.values():
        function.device_caches.pop("mock", None)


def pyramid(draw: random.Random, channels: int = 256) -> list[torch.Tensor]:
    """Maps of a batch at a random scale, in a random format, whose addresses may be odd."""
    short = draw.randrange(640, 801, 32)
    long = draw.randrange(short, 1334)
    images, last = draw.randint(1, 8), draw.random() < 0.5
    maps = []
    for stride in (8, 16, 32, 64, 128):
        height, width = -(-short // stride), -(-long // stride)
        memory = torch.empty(images * channels * height * width + 1)[draw.randint(0, 1) :]
        shape = (images, height, width, channels) if last else (images, channels, height, width)
        level = memory[: images * channels * height * width].view(shape)
        maps.append(level.permute(0, 3, 1, 2) if last else level)
    return maps


@pytest.mark.parametrize("over", [0, 1])
def test_images_of_any_size_share_a_few_variants(over: int, variants: Counter[str]) -> None:
    from sssd.ops.triton import divergence

    draw = random.Random(0)
    settings = (over, 1, 0, 1, 0, 0, False, 1.0, 1e-5)
    for _ in range(100):
        maps = pyramid(draw)
        values, factors, saved = divergence.divergence_forward(maps, maps, [], *settings)
        divergence.divergence_backward(
            values, maps, maps, [], factors, saved, *settings, True, False
        )
    # A kernel each that sees elements for rows that are neighbours in memory, and one for others.
    two = ("statistics_kernel", "terms_kernel", "backward_kernel")
    assert variants == dict.fromkeys(two, 2)


def test_boxes_share_a_few_variants(variants: Counter[str]) -> None:
    from sssd.ops.triton import boxes

    draw = random.Random(0)
    for _ in range(100):
        maps, count = pyramid(draw, channels=draw.choice([1, 16, 80])), draw.randint(1, 40)
        size = [8 * maps[0].shape[2], 8 * maps[0].shape[3]]
        shapes = [side for level in maps for side in level.shape[2:]]
        objects = torch.rand(count, 4), torch.zeros(count, dtype=torch.int64)
        last = [int(not level.is_contiguous()) for level in maps]
        pooled = boxes.box_pool(maps, *objects, size, True)
        boxes.box_paint(pooled, *objects, size, shapes, len(maps[0]), last, False)
        classes = draw.choice([1, 16, 80])
        boxes.label_heatmap(
            objects[0], objects[1], objects[1], size, shapes, 1, classes, 2, 0, 0.7, None, None,
            pooled,
        )  # fmt: skip
    assert variants == {"pool_kernel": 2, "paint_kernel": 2, "heatmap_kernel": 1}

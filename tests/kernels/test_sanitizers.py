"""The kernels under ASan, UBSan and TSan; and faults planted in them, which must be caught.

A program is built once a sanitizer, from a copy of the sources in which every fault is planted and
off: the environment turns one on.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.kernels.building import HOST, ROOT, WARNINGS, cached, compiler

pytestmark = pytest.mark.slow

# std::barrier is atomics and futexes: TSan sees the first and needs nothing of the second.
MEMORY = ("fibers", "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
RACES = ("threads", "-O1", "-fsanitize=thread")
RUNS = {"divergence": "sanitized_run", "boxes": "sanitized_boxes"}  # on the emulator


class Fault(NamedTuple):
    """Text that stands once in a file of a program, and what takes its place if `OFF` is 0."""

    program: str
    file: str
    right: str
    wrong: str


OFF = "planted_fault != {number}"
_VECTOR = "exists(vector, j) && (!kStrided || j * element_step < columns_left);"
FAULTS = {
    "block barrier": Fault(
        "divergence",
        "divergence/cuda_tile.cuh",
        "  __syncthreads();\n  const int first = kStrided",
        f"  if ({OFF}) __syncthreads();\n  const int first = kStrided",
    ),
    "cluster barrier": Fault(
        "divergence",
        "divergence/cuda_forward.cuh",
        "      device::cluster_barrier();\n",
        f"      if ({OFF}) device::cluster_barrier();\n",
    ),
    "bounds": Fault(
        "divergence",
        "divergence/cuda_tile.cuh",
        f"return {_VECTOR}",
        f"return {OFF} ? {_VECTOR[:-1]} : exists(vector, j);",
    ),
    "some skip a barrier": Fault(
        "divergence",
        "divergence/cuda_backward.cuh",
        "  __syncthreads();\n  typename Member",
        f"  if ({OFF} || threadIdx.x < 100) __syncthreads();\n  typename Member",
    ),
    "paint's barrier": Fault(
        "boxes",
        "boxes/cuda_paint.cuh",
        "  __syncthreads();\n  const int32_t row = tile.top + Mine::row();",
        f"  if ({OFF}) __syncthreads();\n  const int32_t row = tile.top + Mine::row();",
    ),
    "paint's bounds": Fault(
        "boxes",
        "boxes/cuda_paint.cuh",
        "if (column >= map.size.width) continue;",
        f"if ({OFF} && column >= map.size.width) continue;",
    ),
    "heatmap's bounds": Fault(
        "boxes",
        "boxes/cuda_heatmap.cuh",
        "if (row >= map.size.height || column >= map.size.width) return;",
        f"if ({OFF} && (row >= map.size.height || column >= map.size.width)) return;",
    ),
    "heatmap's classes": Fault(
        "boxes",
        "boxes/cuda_heatmap.cuh",
        "if (first + c < problem.classes)",
        f"if (!({OFF}) || first + c < problem.classes)",
    ),
    "pool's channels": Fault(
        "boxes",
        "boxes/cuda_pool.cuh",
        "exists = channel + warp + k * kWarps < problem.channels;",
        f"exists = !({OFF}) || channel + warp + k * kWarps < problem.channels;",
    ),
    "the widest level": Fault(
        "boxes_cpu",
        "boxes/pool_cpu.h",
        "tile_cells_(most(kTileCells, widest(problem.levels))),",
        f"tile_cells_({OFF} ? most(kTileCells, widest(problem.levels))\n"
        ": tile_rows(widest(problem.levels)) * widest(problem.levels)),",
    ),
}


def replace_once(path: Path, right: str, wrong: str) -> None:
    text = path.read_text()
    assert text.count(right) == 1, f"{right!r} is not once in {path.name}: choose another fault"
    path.write_text(text.replace(right, wrong))


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The copy. Its divergence launchers know the JS distance alone: the sanitizers are slow."""
    copy = tmp_path_factory.mktemp("planted")
    for folder in ("kernels", "tests/kernels"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("*.py", "__*"))
    for number, fault in enumerate(FAULTS.values()):
        wrong = fault.wrong.replace("{number}", str(number))
        replace_once(copy / "kernels" / fault.file, fault.right, wrong)
    members = copy / "kernels/divergence/members.h"
    switch = re.search(
        r"  const bool softmax =.*?\n  \}\n  throw[^;]*;\n", members.read_text(), re.S
    )
    assert switch, "members.h chooses a member in another way"
    replace_once(members, switch[0], "  static_cast<void>(settings);\n  return call(Js());\n")
    return copy


def run(
    sources: Path, program: str, sanitizer: tuple[str, ...], fault: str = "", few: bool = False
) -> subprocess.CompletedProcess[str]:
    """Builds a program, if no test did, and runs it: all levels or few."""
    runner, *flags = sanitizer
    common = [compiler(), "-g1", "-I.", "-include", "tests/kernels/planted_faults.h", *flags]
    if program in RUNS:
        common += ["-std=c++20", *HOST, *WARNINGS]
        parts = [
            [f"tests/kernels/emulator/{runner}.cpp"],
            ["tests/kernels/emulator/runtime.cpp"],
            [f"tests/kernels/{RUNS[program]}.cpp"],
            ["-x", "c++", f"kernels/{program}/cuda.cu"],
        ]
    else:
        common += ["-std=c++17", "-DSSSD_ISA=baseline"]
        files = (
            "kernels/boxes/cpu.cpp",
            "kernels/boxes/objects.cpp",
            "tests/kernels/sanitized_boxes_cpu.cpp",
        )
        parts = [[file] for file in files]
    commands = [[*common, "-c", *p, "-o", f"{{out}}/{i}.o"] for i, p in enumerate(parts)]
    objects = [f"{{out}}/{i}.o" for i in range(len(parts))]
    commands.append([*common, *objects, "-o", "{out}/run"])
    # Stacks of fibers are no stacks to ASan's leak check, which would need ptrace anyway.
    options = {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "exitcode=66:halt_on_error=1"}
    if fault:
        options["FAULT"] = str([*FAULTS].index(fault))
    return subprocess.run(
        [str(cached("run", commands, sources)), *["few"] * few],
        env=os.environ | options,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("program", [*RUNS, "boxes_cpu"])
def test_no_memory_error_and_no_undefined_behaviour(sources: Path, program: str) -> None:
    result = run(sources, program, MEMORY)
    assert result.returncode == 0, result.stderr[-3000:]
    assert re.fullmatch(r"[\d. \n-]+\n", result.stdout), "numbers"


@pytest.mark.parametrize("program", RUNS)
def test_no_data_race_and_the_same_numbers_as_without_optimisation(
    sources: Path, program: str
) -> None:
    result = run(sources, program, RACES, few=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout == run(sources, program, MEMORY, few=True).stdout


def places(result: subprocess.CompletedProcess[str]) -> str:
    """Where ThreadSanitizer saw a race: its own symboliser knows no line of an inlined function."""
    offsets = re.findall(r"\(run\+(0x[0-9a-f]+)\)", result.stderr)
    command = ["addr2line", "-i", "-e", result.args[0], *offsets]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("fault", ["block barrier", "cluster barrier", "paint's barrier"])
def test_tsan_catches_a_missing_barrier(sources: Path, fault: str) -> None:
    program, file, *_ = FAULTS[fault]
    result = run(sources, program, RACES, fault, few=True)
    assert result.returncode == 66, result.stderr[-3000:]
    assert "data race" in result.stderr
    assert file in places(result)


@pytest.mark.parametrize(
    "fault",
    [
        *("bounds", "paint's bounds", "heatmap's bounds", "heatmap's classes", "pool's channels"),
        "the widest level",
    ],
)
def test_asan_catches_an_access_out_of_bounds(sources: Path, fault: str) -> None:
    result = run(sources, FAULTS[fault].program, MEMORY, fault)
    assert result.returncode != 0
    assert "heap-buffer-overflow" in result.stderr, result.stderr[-3000:]


def test_the_scheduler_catches_a_barrier_that_some_threads_skip(sources: Path) -> None:
    result = run(sources, "divergence", MEMORY, "some skip a barrier", few=True)
    assert result.returncode == 1
    assert "barrier divergence in block 0: from thread 0: at a block barrier" in result.stderr
    assert "from thread 100: returned" in result.stderr

"""The box kernels, CUDA's and the CPU's, under sanitizers; planted faults must be caught."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .building import HOST, ROOT, WARNINGS, cached, compiler
from .test_sanitizers import MEMORY, RACES, places, planted

pytestmark = pytest.mark.slow


def run(flags: list[str], runner: str, sources: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Builds sanitized_boxes.cpp with the kernels under `sources`, and runs it."""
    common = [compiler(), "-std=c++20", "-O1", "-g1", "-I.", *HOST, *flags]
    commands = [
        [*common, *WARNINGS, "-c", f"tests/kernels/emulator/{runner}.cpp", "-o", "{out}/runner.o"],
        [*common, *WARNINGS, "-c", "tests/kernels/emulator/runtime.cpp", "-o", "{out}/runtime.o"],
        [*common, *WARNINGS, "-x", "c++", "-c", "kernels/boxes/cuda.cu", "-o", "{out}/kernels.o"],
        [*common, "-c", "tests/kernels/sanitized_boxes.cpp", "-o", "{out}/run.o"],
        [
            *common,
            "{out}/run.o",
            "{out}/kernels.o",
            "{out}/runner.o",
            "{out}/runtime.o",
            "-o",
            "{out}/run",
        ],
    ]
    options = {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "exitcode=66:halt_on_error=1"}
    return subprocess.run(
        [str(cached("run", commands, sources))],
        env=os.environ | options,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def expected() -> str:
    """What the kernels print with no sanitizer."""
    result = run([], "fibers")
    assert result.returncode == 0, result.stderr
    assert "nan" not in result.stdout
    return result.stdout


def test_no_memory_error_and_no_undefined_behaviour(expected: str) -> None:
    result = run(MEMORY, "fibers")
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout == expected


def run_cpu(flags: list[str], sources: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Builds sanitized_boxes_cpu.cpp with the CPU kernels under `sources`, and runs it."""
    common = [compiler(), "-std=c++17", "-O1", "-g1", "-I.", "-DSSSD_ISA=baseline", *flags]
    files = {
        "kernels": "kernels/boxes/cpu.cpp",
        "objects": "kernels/boxes/objects.cpp",
        "run": "tests/kernels/sanitized_boxes_cpu.cpp",
    }
    commands = [[*common, "-c", file, "-o", f"{{out}}/{o}.o"] for o, file in files.items()]
    commands.append([*common, *(f"{{out}}/{o}.o" for o in files), "-o", "{out}/run"])
    program = str(cached("run", commands, sources))
    return subprocess.run([program], capture_output=True, text=True, timeout=300, check=False)


def test_the_cpu_kernels_keep_to_their_memory() -> None:
    result, plain = run_cpu(MEMORY), run_cpu([])
    assert result.returncode == plain.returncode == 0, result.stderr[-3000:]
    assert result.stdout == plain.stdout
    assert "nan" not in plain.stdout


def test_asan_catches_a_tile_that_is_sized_by_the_widest_level() -> None:
    right = "tile_cells_(most(kTileCells, widest(problem.levels))),"
    wrong = "tile_cells_(tile_rows(widest(problem.levels)) * widest(problem.levels)),"
    copy = planted("tile", "kernels/boxes/pool_cpu.h", right, wrong)
    result = run_cpu(MEMORY, copy)
    shutil.rmtree(copy)
    assert "heap-buffer-overflow" in result.stderr, result.stderr[-3000:]


def test_no_data_race(expected: str) -> None:
    result = run([*RACES, "-DSSSD_SHORT_RUN"], "threads")
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout == expected.splitlines(keepends=True)[0]


def test_tsan_catches_a_missing_barrier() -> None:
    file, after = "cuda_paint.cuh", "  const int32_t row = tile.top + Mine::row();"
    copy = planted("barrier", f"kernels/boxes/{file}", f"  __syncthreads();\n{after}", after)
    result = run([*RACES, "-DSSSD_SHORT_RUN"], "threads", copy)
    shutil.rmtree(copy)
    assert result.returncode == 66, result.stderr[-3000:]
    assert "data race" in result.stderr
    assert file in places(result)


@pytest.mark.parametrize(
    ("file", "check"),
    [
        ("cuda_paint.cuh", "if (column >= map.size.width) continue;"),
        ("cuda_heatmap.cuh", "if (row < map.size.height && column < map.size.width)"),
    ],
)
def test_asan_catches_an_access_out_of_bounds(file: str, check: str) -> None:
    copy = planted("boxes-bounds", f"kernels/boxes/{file}", check, "")
    result = run([*MEMORY, "-DSSSD_SHORT_RUN"], "fibers", copy)
    shutil.rmtree(copy)
    assert result.returncode != 0
    assert "heap-buffer-overflow" in result.stderr

"""The CUDA kernels under ASan, UBSan and TSan; and faults planted in them, which must be caught."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .building import BUILD, HOST, ROOT, WARNINGS, cached, compiler

pytestmark = pytest.mark.slow

# std::barrier is atomics and futexes: TSan sees the first and needs nothing of the second.
MEMORY = ["-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
RACES = ["-fsanitize=thread"]


def run(
    flags: list[str], runner: str, sources: Path = ROOT, few: bool = False
) -> subprocess.CompletedProcess[str]:
    """Builds sanitized_run.cpp and the kernels under `sources`; runs all levels or few."""
    common = [compiler(), "-std=c++20", "-O1", "-g1", "-I.", *HOST, *flags]
    commands = [
        [*common, *WARNINGS, "-c", f"tests/kernels/emulator/{runner}.cpp", "-o", "{out}/runner.o"],
        [*common, *WARNINGS, "-c", "tests/kernels/emulator/runtime.cpp", "-o", "{out}/runtime.o"],
        [*common, "-c", "tests/kernels/sanitized_run.cpp", "-o", "{out}/run.o"],
        [*common, "-x", "c++", "-c", "kernels/divergence/cuda.cu", "-o", "{out}/kernels.o"],
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
    # Stacks of fibers are no stacks to ASan's leak check, which would need ptrace anyway.
    options = {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "exitcode=66"}
    return subprocess.run(
        [str(cached("run", commands, sources)), *["few"] * few],
        env=os.environ | options,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def one_member(name: str) -> Path:
    """A copy of the sources that know the JS distance alone: the sanitizers are slow."""
    copy = BUILD / "planted" / f"{name}-{os.getpid()}"
    shutil.rmtree(copy, ignore_errors=True)
    for folder in ("kernels", "tests/kernels"):
        shutil.copytree(
            ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("*.py", "__pycache__")
        )
    members = copy / "kernels/divergence/members.h"
    switch = re.compile(r"  switch \(member_of\(settings\)\) \{.*?\n  \}\n", re.DOTALL)
    alone, count = switch.subn("  return call(Js());\n", members.read_text())
    assert count == 1, "members.h chooses a member in another way"
    members.write_text(alone)
    return copy


def planted(name: str, file: str, old: str, new: str) -> Path:
    """Such a copy with one place changed."""
    copy = one_member(name)
    path = copy / file
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} is not once in {file}: choose another fault"
    path.write_text(text.replace(old, new))
    return copy


def expected(few: bool) -> str:
    """What the kernels print with no sanitizer."""
    result = run([], "fibers", few=few)
    assert result.returncode == 0, result.stderr
    assert "nan" not in result.stdout
    return result.stdout


def test_no_memory_error_and_no_undefined_behaviour() -> None:
    result = run(MEMORY, "fibers")
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout == expected(few=False)


def test_no_data_race() -> None:
    copy = one_member("none")
    result = run(RACES, "threads", copy, few=True)
    shutil.rmtree(copy)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout == expected(few=True)


def places(result: subprocess.CompletedProcess[str]) -> str:
    """Where ThreadSanitizer saw a race: its own symboliser knows no line of an inlined function."""
    offsets = re.findall(r"\(run\+(0x[0-9a-f]+)\)", result.stderr)[:200]
    command = ["addr2line", "-i", "-e", result.args[0], *offsets]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_tsan_catches_a_missing_barrier() -> None:
    barrier = "  __syncthreads();\n  const int first = kStrided"
    copy = planted(
        "barrier",
        "kernels/divergence/cuda_tile.cuh",
        barrier,
        barrier.replace("  __syncthreads();\n", ""),
    )
    result = run(RACES, "threads", copy, few=True)
    shutil.rmtree(copy)
    assert result.returncode == 66, result.stderr[-3000:]
    assert "data race" in result.stderr
    assert "cuda_tile.cuh" in places(result)


def test_tsan_catches_a_missing_barrier_of_a_cluster() -> None:
    copy = planted(
        "cluster", "kernels/divergence/cuda_forward.cuh", "      device::cluster_barrier();\n", ""
    )
    result = run(RACES, "threads", copy, few=True)
    shutil.rmtree(copy)
    assert result.returncode == 66, result.stderr[-3000:]
    assert "data race" in result.stderr
    assert "cuda_forward.cuh" in places(result)


def test_asan_catches_an_access_out_of_bounds() -> None:
    copy = planted(
        "bounds",
        "kernels/divergence/cuda_tile.cuh",
        "return exists(vector, j) && (!kStrided || j * element_step < columns_left);",
        "return exists(vector, j);",
    )
    result = run(MEMORY, "fibers", copy, few=True)
    shutil.rmtree(copy)
    assert result.returncode != 0
    assert "heap-buffer-overflow" in result.stderr


def test_the_scheduler_catches_a_barrier_that_some_threads_skip() -> None:
    copy = planted(
        "divergence",
        "kernels/divergence/cuda_backward.cuh",
        "  __syncthreads();\n  typename Member",
        "  if (threadIdx.x < 100) __syncthreads();\n  typename Member",
    )
    result = run([], "fibers", copy, few=True)
    shutil.rmtree(copy)
    assert result.returncode == 1
    assert "barrier divergence in block 0: from thread 0: at a block barrier" in result.stderr
    assert "from thread 100: returned" in result.stderr

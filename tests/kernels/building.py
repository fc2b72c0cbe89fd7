"""Compiles what the kernel tests run, once for each state of the sources."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "kernel_tests"
HOST = ["-DSSSD_HOST_CUDA", "-include", "tests/kernels/emulator/host_cuda.h"]
# Every access of an instrumented kernel is seen by tests/kernels/emulator/every_access.cpp.
SEEN = ["-g1", "-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0"]
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
# Of kernels/common/dtype.h.
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


def compiler() -> str:
    """The C++ compiler; a machine without one skips."""
    found = shutil.which("g++")
    if found is None:
        pytest.skip("no g++: CUDA sources cannot be run on the CPU")
    return found


def cached(name: str, commands: Sequence[Sequence[str]], sources: Path = ROOT) -> Path:
    """Runs the commands in `sources`, unless the same ones already built `name` from them.

    "{out}" in a command is the folder of the result, "{out}/name" the result itself.
    """
    state = hashlib.sha256(repr(commands).encode())
    for folder in ("kernels", "tests/kernels"):
        for path in sorted((sources / folder).rglob("*")):
            if path.suffix in (".h", ".cpp", ".cu", ".cuh"):
                state.update(path.name.encode() + path.read_bytes())
    out = BUILD / state.hexdigest()[:16]
    out.mkdir(parents=True, exist_ok=True)
    with (out / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of several test processes builds, the others wait
        if not (out / "done").exists():
            _run_all([[part.replace("{out}", str(out)) for part in c] for c in commands], sources)
            (out / "done").touch()
    return out / name


def host_module(name: str, kernels: str, binding: str) -> ModuleType:
    """Compiles CUDA sources for the CPU with their pybind11 binding, and imports them as `name`."""
    import pybind11

    common = [compiler(), "-std=c++20", "-O1", "-fPIC", "-I.", *HOST, *WARNINGS]
    include = [f"-I{sysconfig.get_path('include')}", f"-I{pybind11.get_include()}"]
    sources = {
        "kernels": [*SEEN, "-x", "c++", kernels],
        **{
            part: [f"tests/kernels/emulator/{part}.cpp"]
            for part in ("fibers", "runtime", "every_access")
        },
        "module": [f"-DSSSD_MODULE={name}", "-O0", *include, binding],
    }
    commands = [
        [*common, "-c", *source, "-o", f"{{out}}/{part}.o"] for part, source in sources.items()
    ]
    objects = [f"{{out}}/{part}.o" for part in sources]
    commands.append([compiler(), "-shared", *objects, "-o", f"{{out}}/{name}.so"])
    spec = importlib.util.spec_from_file_location(name, cached(f"{name}.so", commands))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run_all(commands: Sequence[Sequence[str]], folder: Path) -> None:
    """All but the last at the same time, then the last."""
    running = [_start(command, folder) for command in commands[:-1]]
    for process in [*running, None]:
        process = process or _start(commands[-1], folder)
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{process.args} failed:\n{errors}")


def _start(command: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)

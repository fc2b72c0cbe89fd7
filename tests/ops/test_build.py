"""The native build: what it says without CUDA, and that no processor meets another's code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OBJECTS = ROOT / "build" / "native" / "CMakeFiles"


def tool(name):
    return shutil.which(name, path=Path(sys.executable).parent) or shutil.which(name)


def configure(build, *options, path=None):
    """What CMake says when it configures the build."""
    if tool("cmake") is None or tool("ninja") is None:
        pytest.skip("cmake or ninja is not installed")
    command = [tool("cmake"), "-S", ROOT, "-B", build, "-G", "Ninja"]
    command += [f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", *options]
    environment = {**os.environ, "PATH": path or os.environ["PATH"]}
    environment = {k: v for k, v in environment.items() if k not in ("CUDA_HOME", "CUDA_PATH")}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_cuda_switched_off(tmp_path):
    printed = configure(tmp_path, "-DSSSD_CUDA=OFF", "-DSSSD_TORCH_CUDA=13.0")
    assert "sssd: CPU kernels only: CUDA was switched off (SSSD_CUDA=0)" in printed


def test_torch_without_cuda(tmp_path):
    printed = configure(tmp_path, "-DSSSD_TORCH_CUDA=")
    assert "sssd: CPU kernels only: the installed torch has no CUDA" in printed


def test_no_nvcc(tmp_path):
    if Path("/usr/local/cuda/bin/nvcc").exists():
        pytest.skip("nvcc is where it is always looked for")
    folders = os.environ["PATH"].split(os.pathsep)
    path = os.pathsep.join(f for f in folders if not (Path(f) / "nvcc").exists())
    printed = configure(tmp_path, "-DSSSD_TORCH_CUDA=13.0", path=path)
    assert "sssd: CPU kernels only: no nvcc on PATH" in printed
    assert "needs CUDA 13.0" in printed


def test_versions_that_do_not_fit_are_both_named(tmp_path):
    """A wrapper on PATH, as some machines have it, of a toolkit that torch was not built with."""
    home = tmp_path / "toolkit" / "bin"
    home.mkdir(parents=True)
    wrapper = tmp_path / "bin" / "nvcc"
    wrapper.parent.mkdir()
    (home / "nvcc").write_text(
        f'#!/bin/sh\necho "#$ _HERE_={home}" >&2\necho "Cuda compilation tools, release 12.4"\n'
    )
    wrapper.write_text(f'#!/bin/sh\nexec {home}/nvcc "$@"\n')
    for script in (home / "nvcc", wrapper):
        script.chmod(0o755)
    path = f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}"
    printed = configure(tmp_path / "build", "-DSSSD_TORCH_CUDA=13.0", path=path)
    assert "nvcc is CUDA 12.4 but torch was built with CUDA 13.0" in printed
    assert "set CUDA_HOME to a CUDA 13 toolkit" in printed


@pytest.mark.skipif(not OBJECTS.is_dir(), reason="the library was not built here")
def test_no_function_is_shared_between_instruction_sets():
    """The linker keeps one copy of a function it meets twice: it must not be AVX-512's."""
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    owners: dict[str, set[str]] = {}
    for folder in OBJECTS.glob("kernels_*.dir"):
        for file in folder.rglob("*.o"):
            printed = subprocess.run(
                ["nm", file], capture_output=True, text=True, check=True
            ).stdout
            for line in printed.splitlines():
                *_, kind, name = line.split()
                if kind in "WVu" and not name.startswith("DW.ref."):
                    owners.setdefault(name, set()).add(folder.name)
    assert len({f for folders in owners.values() for f in folders}) >= 1, "no kernels were built"
    assert [name for name, folders in owners.items() if len(folders) > 1] == []


def test_offsets_beyond_32_bits(tmp_path):
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    program = tmp_path / "huge_level"
    source = Path(__file__).with_name("huge_level.cpp")
    command = [compiler, "-std=c++17", "-O1", f"-I{ROOT}", source, "-o", program]
    subprocess.run(command, check=True)
    printed = subprocess.run([program], capture_output=True, text=True, check=False).stdout
    assert printed == "channels: same\nchannel: same\n"

"""The native build: what it says without CUDA, and that no processor meets another's code."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OBJECTS = ROOT / "build" / "native" / "CMakeFiles"
SETTINGS = ("CUDA_HOME", "CUDA_PATH", "CUDAARCHS", "TORCH_CUDA_ARCH_LIST")


def tool(name):
    return shutil.which(name, path=Path(sys.executable).parent) or shutil.which(name)


def cmake(*arguments, path=None, **variables):
    """What CMake does where nobody has said anything about CUDA, but for the given variables."""
    if tool("cmake") is None or tool("ninja") is None:
        pytest.skip("cmake or ninja is not installed")
    environment = {k: v for k, v in os.environ.items() if k not in SETTINGS}
    environment |= {"PATH": path or os.environ["PATH"], **variables}
    return subprocess.run(
        [tool("cmake"), *arguments], capture_output=True, text=True, env=environment, check=False
    )


def configure(build, *options, path=None, **variables):
    """What CMake says when it configures the build."""
    program = f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"
    command = ["-S", ROOT, "-B", build, "-G", "Ninja", program, *options]
    result = cmake(*command, path=path, **variables)
    assert result.returncode == 0, result.stderr
    return result.stdout


def toolkit(folder, release, *architectures, behind=None):
    """A folder for PATH with a wrapper, as some machines have it, of an nvcc of a toolkit.

    It tells its home, version and architectures; all else is done by the one `behind` it.
    """
    home, wrapper = folder / f"cuda-{release}" / "bin", folder / "bin"
    codes = "\\n".join(f"sm_{number}" for number in architectures)
    answers = {
        "*--dryrun*": f'echo "#$ _HERE_={home}" >&2',
        "*--version*": f'echo "Cuda compilation tools, release {release}"',
        "*--list-gpu-code*": f'printf "{codes}\\n"',
        "*--list-gpu-arch*": f'printf "{codes}\\n" | sed s/sm/compute/',
        "*": f'exec {behind or "false"} "$@"',
    }
    cases = "\n".join(f"{pattern}) {answer};;" for pattern, answer in answers.items())
    for path, text in ((home, f'case "$*" in\n{cases}\nesac'), (wrapper, f'exec {home}/nvcc "$@"')):
        path.mkdir(parents=True)
        (path / "nvcc").write_text(f"#!/bin/sh\n{text}\n")
        (path / "nvcc").chmod(0o755)
    return wrapper


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
    path = f"{toolkit(tmp_path, '12.4')}{os.pathsep}{os.environ['PATH']}"
    printed = configure(tmp_path / "build", "-DSSSD_TORCH_CUDA=13.0", path=path)
    assert "nvcc is CUDA 12.4 but torch was built with CUDA 13.0" in printed
    assert "set CUDA_HOME to a CUDA 13 toolkit" in printed


# What toolkits list, from sm_50 on in CUDA 12.
LISTED = {
    "12.0": (50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90),
    "12.8": (50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90, 100, 101, 120),
    "13.0": (75, 80, 86, 87, 88, 89, 90, 100, 110, 103, 120, 121),
}
LISTED["12.6"] = LISTED["12.0"]


def chosen(folder, release, define="", **variables):
    """The architectures for a toolkit: machine code, PTX, and what was said; or the error."""
    nvcc = toolkit(folder, release, *LISTED[release]) / "nvcc"
    script = folder / "choose.cmake"
    script.write_text(
        "cmake_minimum_required(VERSION 3.25)\n"
        f"include({ROOT}/cmake/Architectures.cmake)\nsssd_choose_architectures({nvcc})\n"
        'message("=${SSSD_REAL_ARCHITECTURES}=${SSSD_PTX_ARCHITECTURES}=")'
    )
    result = cmake(
        *[f"-DCMAKE_CUDA_ARCHITECTURES={define}"] * bool(define), "-P", script, **variables
    )
    if result.returncode:
        return " ".join(result.stderr.split())
    _, real, ptx, _ = result.stderr.split("=")
    return real, ptx, result.stdout.replace("-- sssd: ", "").strip()


@pytest.mark.parametrize("release", ["12.0", "12.6"])
def test_an_architecture_that_the_toolkit_does_not_know_is_left_out_with_one_line(
    tmp_path, release
):
    real, ptx, said = chosen(tmp_path, release)
    assert (real, ptx) == ("75;80;86;89;90", "90")
    listed = "70 72 75 80 86 87 89 90"
    assert said == f"left out sm_100 sm_120 (the usual list): this nvcc compiles for {listed}"


@pytest.mark.parametrize(
    ("release", "define", "variables", "real", "ptx", "left_out"),
    [
        ("13.0", "", {}, "75;80;86;89;90;100;120", "120", ""),
        ("12.8", "", {"CUDAARCHS": "all"}, "70;72;75;80;86;87;89;90;100;101;120", "120", ""),
        ("13.0", "90;80-real", {"CUDAARCHS": "75"}, "80;90", "90", ""),
        ("13.0", "", {"CUDAARCHS": "90a;86-virtual;90"}, "90", "86;90", ""),
        ("13.0", "", {"CUDAARCHS": "86-virtual", "TORCH_CUDA_ARCH_LIST": "7.5"}, "", "86", ""),
        ("12.6", "", {"TORCH_CUDA_ARCH_LIST": "5.2 8.0 9.0a+PTX"}, "80;90", "90", "sm_52"),
        ("13.0", "", {"TORCH_CUDA_ARCH_LIST": "7.0;12.0"}, "120", "", "sm_70"),
        ("12.0", "80;120", {}, "80", "80", "sm_120"),
    ],
)  # fmt: skip
def test_architectures_that_were_asked_for(
    tmp_path, release, define, variables, real, ptx, left_out
):
    *built, said = chosen(tmp_path, release, define, **variables)
    assert built == [real, ptx]
    assert said.startswith(f"left out {left_out} (") if left_out else said == ""


@pytest.mark.parametrize(
    ("define", "variables", "names"),
    [
        ("80;hopper", {}, "CMAKE_CUDA_ARCHITECTURES holds 'hopper'"),
        ("OFF", {}, "CMAKE_CUDA_ARCHITECTURES holds 'OFF'"),
        ("", {"CUDAARCHS": "sm_90"}, "CUDAARCHS holds 'sm_90', which is no architecture. Give"),
        ("", {"TORCH_CUDA_ARCH_LIST": "Ampere"}, "TORCH_CUDA_ARCH_LIST holds 'Ampere'"),
        ("120", {}, "left out sm_120 (CMAKE_CUDA_ARCHITECTURES): this nvcc compiles for 70 72"),
        ("", {"CUDAARCHS": "native", "PATH": "/nonexistent"}, "CUDAARCHS is native, but"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_with_the_way_out(tmp_path, define, variables, names):
    assert names in (error := chosen(tmp_path, "12.6", define, **variables))
    assert "such as 80;90" in error or "name one of these, unset" in error


def test_the_build_compiles_and_records_what_an_old_toolkit_knows(tmp_path):
    """CMake's own compiler checks go to the nvcc of this machine, behind one that knows less."""
    real = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if real is None:
        pytest.skip("no nvcc")
    said = subprocess.run(
        [real, "--dryrun", "none.cu"], capture_output=True, text=True, check=False
    )
    behind = Path(re.search(r"_HERE_=(.+)", said.stderr)[1]) / "nvcc"
    path = f"{toolkit(tmp_path, '13.0', 80, 90, behind=behind)}{os.pathsep}{os.environ['PATH']}"
    build = tmp_path / "build"
    printed = configure(build, "-DSSSD_TORCH_CUDA=13.0", "-DSSSD_TORCH_ROOT=/", path=path)
    assert "sssd: left out sm_75 sm_86 sm_89 sm_100 sm_120" in printed
    assert "for sm_80,90 and as PTX 90" in printed
    commands = json.loads((build / "compile_commands.json").read_text())
    cuda = [c["command"] for c in commands if c["file"].endswith(".cu")]
    codes = [set(re.findall(r"code=\[(\w+)", command)) for command in cuda]
    assert codes == [{"sm_80", "sm_90", "compute_90"}] * 2
    record = next(c["command"] for c in commands if c["file"].endswith("library_cuda.cpp"))
    assert "-DSSSD_CUDA_ARCHITECTURES=80,90 " in record
    assert "-DSSSD_CUDA_PTX=90 " in record


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


@pytest.mark.slow
def test_offsets_beyond_32_bits(tmp_path):
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    program = tmp_path / "huge_level"
    source = Path(__file__).with_name("huge_level.cpp")
    command = [compiler, "-std=c++17", "-O1", f"-I{ROOT}", source, "-o", program]
    subprocess.run(command, check=True)
    printed = subprocess.run([program], capture_output=True, text=True, check=False).stdout
    assert printed == "channels: same\nimages_and_cells: same\n"

"""Building in place while somebody uses what was built before, and a build that is refused."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sssd.ops.dispatch import LIBRARY_PATH
from tests.ops.test_build import toolkit

ROOT = Path(__file__).resolve().parents[1]

# What it computes with has not been read from the disk when the library is replaced.
USES_THE_LIBRARY = """
import torch
from sssd.ops import js_distance, use_backend

print("loaded", flush=True)
input()
maps = [torch.rand(2, 8, 32, 32, requires_grad=True) for _ in range(2)]
with use_backend("cpu"):
    js_distance(maps[:1], maps[1:]).backward()
print(maps[0].grad.abs().sum().item() > 0)
"""


@pytest.mark.skipif(not LIBRARY_PATH.exists(), reason="the library was not built here")
def test_a_process_keeps_the_library_that_it_has_loaded(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "sssd", tmp_path / "sssd")
    library, built = tmp_path / "sssd/_C.so", tmp_path / "built.so"
    built.write_bytes(b"another library")
    user = subprocess.Popen(
        [sys.executable, "-c", USES_THE_LIBRARY],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert user.stdout is not None
    assert user.stdout.readline() == "loaded\n"
    runpy.run_path(str(ROOT / "setup.py"))["put_in_place"](built, library)
    printed, _ = user.communicate("\n", timeout=100)
    assert (user.returncode, printed) == (0, "True\n")
    assert library.read_bytes() == b"another library"
    assert [path.name for path in library.parent.glob(".*.so")] == []


def test_a_refused_architecture_is_named_without_a_traceback(tmp_path: Path) -> None:
    for part in ("setup.py", "CMakeLists.txt", "cmake/FindNvcc.cmake", "cmake/Architectures.cmake"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / part, tmp_path / part)
    nvcc = toolkit(tmp_path, "12.6", 80, 90)
    given = "-DSSSD_TORCH_CUDA=12.6 -DCMAKE_CUDA_ARCHITECTURES=hopper"
    result = subprocess.run(
        [sys.executable, "setup.py", "build_ext"],
        cwd=tmp_path,
        env={**os.environ, "CUDA_HOME": str(nvcc.parent), "CMAKE_ARGS": given},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "CMAKE_CUDA_ARCHITECTURES holds 'hopper'" in result.stderr
    assert "what is wrong stands above" in result.stderr
    assert "Traceback" not in result.stderr

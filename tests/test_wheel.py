"""What is handed out: a wheel with the libraries of this checkout, an sdist, and a package without
kernels where nothing can be compiled.
"""

import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from sssd.ops import dispatch

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "CMakeLists.txt", "LICENSE", "README.md")
pytest.importorskip("auditwheel", reason="make wheel's tools are not installed")
WHEEL, TRY = (runpy.run_path(str(ROOT / "tools" / f"{n}.py")) for n in ("wheel", "try_wheel"))
BUILT = pytest.mark.skipif(bool(dispatch.MISSING), reason=dispatch.MISSING)

# setup.py with the libraries of the checkout in the place of what CMake would compile for minutes.
WITHOUT_COMPILING = f"""
import runpy, shutil
from pathlib import Path

def compile(self, build):
    build.mkdir(parents=True)
    for library in Path({str(ROOT)!r}, "sssd").glob("*.so"):
        shutil.copy(library, build)

setup = runpy.run_path("setup.py")
setup["CMakeBuild"].compile = compile
setup["main"]()
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources as a clone has them, so that no test writes into the checkout."""
    folder = tmp_path_factory.mktemp("source")
    skip = shutil.ignore_patterns("*.so", "__pycache__")
    for name in SOURCES:
        shutil.copy(ROOT / name, folder / name)
    for name in ("sssd", "csrc", "kernels", "cmake"):
        shutil.copytree(ROOT / name, folder / name, ignore=skip)
    return folder


def setup(source: Path, *arguments: str, script: str = "", **variables: str) -> str:
    """What setup.py prints of a command that succeeds."""
    start = ["-c", script] if script else ["setup.py"]
    done = subprocess.run(
        [sys.executable, *start, "--quiet", *arguments],
        cwd=source, env={**os.environ, **variables}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@BUILT
@pytest.mark.slow
def test_the_wheel_runs_every_operator_with_torch_alone(source: Path, tmp_path: Path) -> None:
    tag = ("--plat-name", "manylinux_2_34_x86_64", "--dist-dir", str(tmp_path))
    setup(source, "bdist_wheel", *tag, script=WITHOUT_COMPILING)
    setup(source, "sdist", "--dist-dir", str(tmp_path))
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-manylinux_2_34_x86_64.whl")
    assert WHEEL["check"](tmp_path) == []
    printed = TRY["try_wheel"](wheel, tmp_path / "environment")
    assert printed.startswith("every operator runs on cpu")
    assert "environment/lib" in printed
    assert "also imported: nothing" in printed
    if dispatch.CUDA_LIBRARY_PATH.exists():
        assert "CUDA kernels: loaded" in printed
        (wheel,) = tmp_path.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            bytes_of = WHEEL["shares"](archive.read("sssd/_C_cuda.so"))
        assert {c for c in bytes_of if c.startswith("sm_")} == {
            f"sm_{number}" for number in torch.ops.sssd.cuda_architectures()
        }


def test_a_library_that_would_not_load_elsewhere_is_found(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    (tmp_path / "a.cpp").write_text(
        'extern "C" void _ZN3c105ErrorD1Ev(); extern "C" int torch_get_dim; extern "C" '
        "void torch_list_size(); void f() { _ZN3c105ErrorD1Ev(); torch_list_size(); }"
    )
    library = tmp_path / "a.so"
    command = ["g++", "-shared", "-fPIC", "a.cpp", "-o", library, "-Wl,-rpath,/home/me"]
    subprocess.run([*command, "-Wl,--no-as-needed", "-lgomp"], cwd=tmp_path, check=True)
    faults = WHEEL["faults_of"]("_C.so", library.read_bytes(), WHEEL["stable_symbols"]())
    assert faults == [
        "_C.so needs libgomp.so.1",
        "_C.so has the path of a folder of the machine that built it",
        "_C.so: _ZN3c105ErrorD1Ev is not in torch 2.10's stable ABI",
    ]


NO_COMPILER = {"PATH": "/nonexistent", "CXX": ""}


def test_without_a_compiler_the_package_is_plain_python(source: Path, tmp_path: Path) -> None:
    printed = setup(source, "bdist_wheel", "--dist-dir", str(tmp_path), **NO_COMPILER)
    said = [line for line in printed.splitlines() if line.startswith("setup.py: ")]
    assert len(said) == 1, printed
    assert "without its native operators: no C++ compiler is on PATH" in said[0]
    assert "docs/install.md" in said[0]
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert [name for name in archive.namelist() if name.endswith(".so")] == []


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        (["bdist_wheel"], {**NO_COMPILER, "SSSD_NATIVE": "1"}, "no C++ compiler is on PATH"),
        (["build_ext"], NO_COMPILER, "no C++ compiler is on PATH"),
        (["build_ext"], {"SSSD_NATIVE": "yes"}, "SSSD_NATIVE is 'yes': expected 1, 0, or nothing"),
        (["build_ext"], {"SSSD_NATIVE": "0"}, "SSSD_NATIVE is 0"),
        (["bdist_wheel"], {"CXX": sys.executable, "CMAKE_ARGS": "-DNO"}, "CMake ended with"),
    ],
)
def test_a_build_that_was_asked_for_or_begun_fails_aloud(
    source: Path, arguments: list[str], variables: dict[str, str], said: str
) -> None:
    with pytest.raises(AssertionError, match=re.escape(said)):
        setup(source, *arguments, **variables)


def test_pip_is_asked_for_tools_only_where_they_are_used(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = "from setuptools import build_meta as b; print(b.get_requires_for_build_wheel())"
    wanted = (
        "import sys; sys.path.insert(0, '.'); sys.modules.update(cmake=None, torch=None); " + ask
    )
    environment = {"PYTHONPATH": ""}
    assert "torch" not in setup(source, script=wanted, **NO_COMPILER, **environment)
    if shutil.which("g++"):
        assert "'torch>=2.10'" in setup(source, script=wanted, **environment)


def test_a_setuptools_that_pip_did_not_check_is_named(source: Path) -> None:
    old = "import runpy, sys; sys.modules['setuptools.command.bdist_wheel'] = None; "
    with pytest.raises(AssertionError, match="too old: pip install 'setuptools>=77'"):
        setup(source, script=old + "runpy.run_path('setup.py')")


def test_other_platforms_are_not_tried_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    obstacle = runpy.run_path(str(ROOT / "setup.py"))["obstacle"]
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("CXX", sys.executable)  # a compiler
    monkeypatch.delenv("SSSD_NATIVE", raising=False)
    assert "this is darwin" in obstacle()
    monkeypatch.setenv("SSSD_NATIVE", "1")
    assert obstacle() == ""


LOADED = """
import types
import torch
torch.version.cuda = "13.0"
import sssd.ops
from sssd.ops import dispatch
gpu = types.SimpleNamespace(device=torch.device("cuda", 0), dtype=torch.float32)
print(dispatch.choose("box_pool", gpu).reason)
print(sssd.ops.explain("pool_boxes", [torch.zeros(1)]))
"""


@BUILT
def test_a_cuda_library_that_does_not_load(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "sssd/ops", tmp_path / "sssd/ops")
    (tmp_path / "sssd/__init__.py").write_text("")
    shutil.copy(ROOT / "sssd/_C.so", tmp_path / "sssd")
    (tmp_path / "sssd/_C_cuda.so").write_bytes(b"broken")
    done = subprocess.run(
        [sys.executable, "-c", LOADED],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert "not cuda: _C_cuda.so does not load (" in done.stdout
    assert done.stderr.count("sssd: _C_cuda.so does not load") == 1
    assert "runs on backend 'cpu'" in done.stdout


@BUILT
def test_the_cuda_library_is_for_a_torch_with_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "_C_cuda.so"
    library.write_bytes(b"not even opened")
    monkeypatch.setattr(dispatch, "CUDA_LIBRARY_PATH", library)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert dispatch._load_for_cuda() == "this torch was built without CUDA"
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    monkeypatch.setattr(dispatch, "CUDA_LIBRARY_PATH", tmp_path / "none.so")
    assert "sssd was built without CUDA" in dispatch._load_for_cuda()


@pytest.mark.skipif(bool(dispatch.CUDA_MISSING), reason=dispatch.CUDA_MISSING)
def test_a_driver_older_than_the_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.ops.sssd.cuda_driver() >= 0  # 0 without a driver
    monkeypatch.setattr(torch.ops.sssd, "cuda_driver", lambda: 11080)
    why = dispatch._cuda_code_for.__wrapped__(0)
    assert "this driver supports CUDA 11.8" in why


@pytest.mark.skipif(bool(dispatch.CUDA_MISSING), reason=dispatch.CUDA_MISSING)
def test_ptx_of_a_toolkit_newer_than_the_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machine code runs on every driver of the toolkit's major version, PTX on later ones alone."""
    facts = {"cuda_runtime": 13010, "cuda_architectures": [90], "cuda_ptx": [90]}
    for name, fact in facts.items():
        monkeypatch.setattr(torch.ops.sssd, name, lambda fact=fact: fact)
    for driver, capability, expected in [
        (13000, (9, 0), ""),
        (13010, (12, 0), ""),
        (
            13000,
            (12, 0),
            "the library has no code for sm_120 but PTX of CUDA 13.1, and this driver ",
        ),
    ]:
        monkeypatch.setattr(torch.ops.sssd, "cuda_driver", lambda driver=driver: driver)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, of=capability: of)
        why = dispatch._cuda_code_for.__wrapped__(0)
        assert why.startswith(expected)
        assert bool(why) == bool(expected)

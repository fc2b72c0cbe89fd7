"""Drives CMake for the native operators; all metadata is in pyproject.toml.

`python setup.py build_ext` builds sssd/_C.so and, with nvcc, sssd/_C_cuda.so in place. For a wheel
or an installation they are built where that is possible, and left out with one line where it is
not: the package runs without them. Environment:
    SSSD_NATIVE     1: build them or fail; 0: leave them out. Default: build them on Linux x86-64
                    where a C++ compiler is. What fails in a build that was begun is an error.
    SSSD_CUDA=0     leave the CUDA kernels out, whatever is installed
    CUDA_HOME       the toolkit to use, if not the nvcc on PATH
    MAX_JOBS        compilers at a time (default: as many as there are processors)
    CMAKE_ARGS      further arguments for CMake, separated by spaces
    CUDAARCHS       GPU architectures to compile for, as CMake spells them: 80;90 (machine code
                    and PTX), 90-real, 90-virtual, all, or native for the GPUs of this machine.
                    -DCMAKE_CUDA_ARCHITECTURES=... in CMAKE_ARGS overrides it; without both,
                    TORCH_CUDA_ARCH_LIST ("8.0;9.0+PTX") of other torch extensions is used.
                    Default: the list in cmake/Architectures.cmake. Architectures that this nvcc
                    does not know are left out, and named in one line.
"""

import os
import platform
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ModuleNotFoundError:  # pip has not looked at pyproject.toml: --no-build-isolation
    sys.exit("setup.py: this setuptools is too old: pip install 'setuptools>=77'")

ROOT = Path(__file__).parent.resolve()
LIBRARIES = ("_C.so", "_C_cuda.so")
# What the build needs of PyPI, and whether it is here; pip fetches it for an isolated build.
TOOLS = {"torch>=2.10": "torch", "cmake>=3.25": "cmake", "ninja>=1.11": "ninja"}


def tool(name: str) -> str | None:
    """CMake or Ninja: beside this Python, where PyPI's wheels put them, or on PATH."""
    return shutil.which(name, path=Path(sys.executable).parent) or shutil.which(name)


def obstacle() -> str:
    """Why no build is tried here, or nothing."""
    asked = os.environ.get("SSSD_NATIVE", "")
    if asked not in ("", "0", "1"):
        sys.exit(f"setup.py: SSSD_NATIVE is {asked!r}: expected 1, 0, or nothing")
    if asked == "0":
        return "SSSD_NATIVE is 0"
    here = f"{sys.platform} {platform.machine()}"
    if asked == "" and here not in ("linux x86_64", "linux AMD64"):
        return f"they are tested on Linux x86-64 alone, and this is {here} (SSSD_NATIVE=1 tries)"
    compilers = [*os.environ.get("CXX", "").split()[:1], "c++", "g++", "clang++"]
    if not any(map(shutil.which, compilers)):
        return "no C++ compiler is on PATH (g++, clang++; CXX names another)"
    return ""


def missing() -> list[str]:
    """What the build needs and pip can bring."""
    return [
        requirement
        for requirement, name in TOOLS.items()
        if not (find_spec(name) if name == "torch" else tool(name))
    ]


def torch_package() -> tuple[Path, str]:
    """The folder of the installed torch, and the CUDA version it was built with, or nothing."""
    spec = find_spec("torch")
    assert spec is not None  # `missing` has seen it
    assert spec.origin is not None
    root = Path(spec.origin).parent
    version: dict[str, str | None] = {}
    exec((root / "version.py").read_text(), version)  # importing torch takes seconds
    return root, version.get("cuda") or ""


def put_in_place(built: Path, target: Path) -> None:
    """Give a library its name at once: a process that has the old one mapped keeps it whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{os.getpid()}{target.name}")
    try:
        shutil.copy2(built, beside)
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


class CMakeBuild(build_ext):
    """`build_ext` by CMake and Ninja. Always in place unless a wheel is being made."""

    def run(self) -> None:
        """Configure, build, and put the libraries where they belong."""
        folder = (ROOT if self.in_place() else Path(self.build_lib).resolve()) / "sssd"
        build = ROOT / "build" / "native"
        self.compile(build)
        for name in LIBRARIES:
            if (build / name).exists():
                put_in_place(build / name, folder / name)
            else:  # no CUDA this time
                (folder / name).unlink(missing_ok=True)

    def compile(self, build: Path) -> None:
        """Configure and build; Ninja rebuilds only what changed."""
        torch_root, torch_cuda = torch_package()
        cuda_off = os.environ.get("SSSD_CUDA", "1").lower() in ("0", "off", "false", "no")
        jobs = os.environ.get("MAX_JOBS") or str(len(os.sched_getaffinity(0)))
        cmake = tool("cmake")
        configure = [
            cmake, "-S", ROOT, "-B", build, "-G", "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
            f"-DSSSD_TORCH_ROOT={torch_root}",
            f"-DSSSD_TORCH_CUDA={torch_cuda}",
            f"-DSSSD_CUDA={'OFF' if cuda_off else 'ON'}",
            "-UCMAKE_CUDA_ARCHITECTURES",  # of an earlier build: this one says its own
            *os.environ.get("CMAKE_ARGS", "").split(),
        ]  # fmt: skip
        for command in (configure, [cmake, "--build", build, "--parallel", jobs]):
            if code := subprocess.run(command, check=False).returncode:
                sys.exit(f"setup.py: CMake ended with {code}; what is wrong stands above")

    def in_place(self) -> bool:
        """Whether the libraries go into the checkout."""
        return bool(self.inplace) or "bdist_wheel" not in self.distribution.command_obj

    def get_outputs(self) -> list[str]:
        """The libraries, for the record of an installation."""
        paths = (Path(self.build_lib) / "sssd" / name for name in LIBRARIES)
        return [str(path) for path in paths if path.exists()]


class Wheel(bdist_wheel):
    """One wheel for every Python: torch loads the libraries, which know nothing of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """py3-none and this platform, or any without libraries."""
        *_, platforms = super().get_tag()
        return "py3", "none", platforms


def main() -> None:
    """Decide, say so, and hand over to setuptools."""
    why, tools = obstacle(), missing()
    building = {"bdist_wheel", "editable_wheel"} & {*sys.argv}
    lacking = why or (tools and f"{', '.join(tools)} is not installed")
    if lacking and ("build_ext" in sys.argv or (building and os.environ.get("SSSD_NATIVE") == "1")):
        sys.exit(f"setup.py: the native operators cannot be built: {lacking}")
    if lacking and building:
        print(
            f"setup.py: sssd is installed without its native operators: {lacking}. Plain PyTorch, "
            "or Triton on a GPU where it can start, runs in their place: same results, slower. "
            "docs/install.md has the ways to get them",
            file=sys.stderr,
        )
    setup(
        ext_modules=[] if lacking else [Extension("sssd._C", sources=[])],
        setup_requires=[] if why else tools,  # read where pip asks what to bring, and only there
        cmdclass={"build_ext": CMakeBuild, "bdist_wheel": Wheel},
    )


if __name__ == "__main__":
    main()

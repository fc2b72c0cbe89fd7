"""Drives CMake for the native operators; all metadata is in pyproject.toml.

`python setup.py build_ext` builds sssd/_C.so in place. Environment:
    SSSD_CUDA=0     leave the CUDA kernels out, whatever is installed
    CUDA_HOME       the toolkit to use, if not the nvcc on PATH
    MAX_JOBS        compilers at a time (default: as many as there are processors)
    CMAKE_ARGS      further arguments for CMake, separated by spaces
    CUDAARCHS       GPU architectures to compile for, as CMake spells them: 80;90 (machine code
                    and PTX), 90-real, 90-virtual, all, or native for the GPUs of this machine.
                    -DCMAKE_CUDA_ARCHITECTURES=... in CMAKE_ARGS goes before it, and behind it
                    TORCH_CUDA_ARCH_LIST ("8.0;9.0+PTX"), which other extensions of torch read.
                    Default: the list in cmake/Architectures.cmake. What the nvcc that was found
                    does not know is left out and named in one line.
"""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def torch_package() -> tuple[Path, str]:
    """The folder of the installed torch, and the CUDA version it was built with, or nothing."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        sys.exit(
            "setup.py: torch is not installed, and the native operators are built against its "
            "headers: `pip install torch`, then `pip install --no-build-isolation -e .`"
        )
    root = Path(spec.origin).parent
    version: dict[str, str | None] = {}
    exec((root / "version.py").read_text(), version)  # importing torch takes seconds
    return root, version.get("cuda") or ""


def tool(name: str) -> str:
    """CMake or Ninja: beside this Python, where PyPI's wheels put them, or on PATH."""
    found = shutil.which(name, path=Path(sys.executable).parent) or shutil.which(name)
    if found is None:
        sys.exit(f"setup.py: {name} is not installed: `pip install {name}`")
    return found


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
        """Configure and build; Ninja rebuilds only what changed."""
        wheel = "bdist_wheel" in self.distribution.command_obj and not self.inplace
        target = (Path(self.build_lib).resolve() if wheel else ROOT) / "sssd" / "_C.so"
        torch_root, torch_cuda = torch_package()
        cuda_off = os.environ.get("SSSD_CUDA", "1").lower() in ("0", "off", "false", "no")
        build = ROOT / "build" / "native"
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
        put_in_place(build / "_C.so", target)

    def get_outputs(self) -> list[str]:
        """The library, for the record of an installation."""
        return [str(Path(self.build_lib) / "sssd" / "_C.so")]


if __name__ == "__main__":
    setup(ext_modules=[Extension("sssd._C", sources=[])], cmdclass={"build_ext": CMakeBuild})

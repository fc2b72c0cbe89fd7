"""Installs a wheel into an empty environment with torch alone and runs every operator there.

    python tools/try_wheel.py dist/sssd-*.whl --torch 2.10.0    # torch of PyPI: 0.9 GB and its CUDA
    python tools/try_wheel.py dist/sssd-*.whl                   # the torch that is installed here

The second form links the installed torch and what it requires, nothing else, into the environment:
it takes seconds, and the test suite runs it. No compiler is on PATH in either.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path

OPERATORS = Path(__file__).with_name("every_operator.py")


def brought_by(wanted: str) -> set[str]:
    """The distributions that `pip install` of one brings."""
    found: set[str] = set()
    names = [wanted]
    while names:
        name = re.sub(r"[-_.]+", "-", names.pop()).lower()
        if name not in found:
            found.add(name)
            try:
                lines = requires(name) or []
            except PackageNotFoundError:  # it is for another platform
                continue
            names += [re.split(r"[^\w.-]", s)[0] for s in lines if "extra ==" not in s]
    return found


def link_installed(wanted: str, folder: Path) -> None:
    """Make a folder hold an installed distribution and what it requires, and nothing else."""
    for name in brought_by(wanted):
        try:
            files = distribution(name).files or []
        except PackageNotFoundError:
            continue
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            target = Path(str(distribution(name).locate_file(top)))
            if not (folder / top).is_symlink():
                (folder / top).symlink_to(target)


def try_wheel(wheel: Path, folder: Path, torch: str | None = None) -> str:
    """What every_operator.py prints in a new environment in an empty folder."""
    venv.create(folder, with_pip=torch is not None, symlinks=True)
    python = folder / "bin" / "python"
    (packages,) = folder.glob("lib/python*/site-packages")
    if torch is None:
        linked = folder / "torch alone"
        linked.mkdir()
        link_installed("torch", linked)
        (packages / "torch.pth").write_text(f"{linked}\n")
        pip = [sys.executable, "-m", "pip", "--python", python]
        wanted: list[str | Path] = ["--no-deps", wheel]
    else:
        pip = [python, "-m", "pip"]
        wanted = [f"torch=={torch}", wheel]
    bare = {"PATH": str(folder / "bin"), "HOME": str(folder)}  # no compiler, no nvcc, no PYTHONPATH
    bare |= {name: value for name, value in os.environ.items() if "proxy" in name.lower()}
    index = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    install = [*pip, "install", "--quiet", "--no-cache-dir", *wanted]
    subprocess.run(install, check=True, env={**bare, **index}, cwd=folder)
    done = subprocess.run(
        [python, OPERATORS], env=bare, cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{wheel.name} with {torch or 'the installed torch'}: {done.stderr}")
    return done.stdout + done.stderr


def main() -> None:
    """Try one wheel in a folder that is deleted afterwards."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--torch", help="a version of PyPI; default: the one installed here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(try_wheel(given.wheel.resolve(), Path(folder), given.torch), end="")


if __name__ == "__main__":
    main()

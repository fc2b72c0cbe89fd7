"""Installs a wheel into an empty environment with torch alone and runs every operator there.

    python tools/try_wheel.py dist/sssd-*.whl --torch 2.10.0    # torch of PyPI: 0.9 GB and its CUDA
    python tools/try_wheel.py dist/sssd-*.whl                   # the torch that is installed here
    python tools/try_wheel.py dist/sssd-*.whl --torch 2.14.1 --python python3.13 --train

The second form links the installed torch and what it requires, nothing else, into the environment:
it takes seconds, and the test suite runs it. The third does it for another Python, and then brings
`sssd[train]` and asks the trainer for its help. No compiler is on PATH in any.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
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


def try_wheel(
    wheel: Path,
    folder: Path,
    torch: str | None = None,
    python: str = sys.executable,
    train: bool = False,
) -> str:
    """What every_operator.py prints in a new environment in an empty folder, then the trainer."""
    linked = [] if torch else ["--without-pip"]
    subprocess.run([python, "-m", "venv", "--symlinks", *linked, folder], check=True)
    inside = folder / "bin" / "python"
    (packages,) = folder.glob("lib/python*/site-packages")
    pip = [inside, "-m", "pip"]
    wanted: list[str | Path] = [f"torch=={torch}", wheel]
    if torch is None:
        alone = folder / "torch alone"
        alone.mkdir()
        link_installed("torch", alone)
        (packages / "torch.pth").write_text(f"{alone}\n")
        pip = [sys.executable, "-m", "pip", "--python", inside]
        wanted = ["--no-deps", wheel]
    bare = {"PATH": str(folder / "bin"), "HOME": str(folder)}  # no compiler, no nvcc, no PYTHONPATH
    bare |= {name: value for name, value in os.environ.items() if "proxy" in name.lower()}
    index = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}

    def run(*command: str | Path, **more: str) -> str:
        done = subprocess.run(
            command, env={**bare, **more}, cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{wheel.name} with {torch or 'the installed torch'}: {done.stderr}")
        return done.stdout + done.stderr

    install = [*pip, "install", "--quiet", "--no-cache-dir"]
    run(*install, *wanted, **index)
    said = run(inside, OPERATORS)
    if train:
        run(*install, f"{wheel}[train]", **index)
        said += f"{run(inside, '-m', 'sssd.train', '--help').splitlines()[0]}\n"
    return said


def main() -> None:
    """Try one wheel in a folder that is deleted afterwards."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--torch", help="a version of PyPI; default: the one installed here")
    parser.add_argument("--python", help="another interpreter; needs --torch")
    parser.add_argument("--train", action="store_true", help="sssd[train] too; needs --torch")
    given = parser.parse_args()
    if (given.python or given.train) and not given.torch:
        parser.error("--python and --train need --torch")
    python = given.python or sys.executable
    with tempfile.TemporaryDirectory() as folder:
        wheel = given.wheel.resolve()
        print(try_wheel(wheel, Path(folder), given.torch, python, given.train), end="")


if __name__ == "__main__":
    main()

"""Writes kernels/divergence/registers.csv: registers of every CUDA kernel on every architecture,
and the threads of its launch bounds.

    python -m tests.kernels.registers

Read from the built library, so it needs `python setup.py build_ext` with nvcc, and Triton's
disassembler, but no GPU. test_machine_code.py holds the build to the table, and the emulator's
launches are held to it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from sssd.ops.dispatch import CUDA_LIBRARY_PATH
from tests.kernels.building import ROOT
from tests.kernels.disassembly import most_threads, resources

TABLE = ROOT / "kernels" / "divergence" / "registers.csv"
_MANGLED = re.compile(
    r"_ZN4sssd10divergence\d+([a-z]+)_kernelI(.+?)Lb([01])E(?:Lb([01])E)?EEvNS0_6LaunchE$"
)


def readable(mangled: str) -> str:
    """`forward Js strided` of the mangled name of a divergence kernel; nothing of any other."""
    match = _MANGLED.match(mangled)
    if match is None:
        return ""
    member = re.findall(
        r"(?<=\d)(?:Js|Kl|SoftmaxMse|Affine|SoftmaxStats|Moments)(?=[EIL]|$)", match[2]
    )
    layout = "strided" if match[3] == "1" else "contiguous"
    return " ".join([match[1], *member, layout, *["clustered"] * (match[4] == "1")])


def measured(library: Path = CUDA_LIBRARY_PATH) -> dict[str, dict[str, int]]:
    """By kernel, "threads" and the registers on each architecture."""
    table: dict[str, dict[str, int]] = {}
    threads = most_threads(library)
    for name, used in resources(library).items():
        architecture, mangled = name.split(" ")
        if kernel := readable(mangled):
            row = table.setdefault(kernel, {"threads": threads[mangled]})
            row[architecture] = used["REG"]
    return table


def needed_on(chip: int) -> Callable[[str], tuple[int, int]]:
    """Registers of a thread and most threads of a block, by mangled name; (0, 1024) if unknown."""

    def needed(mangled: str) -> tuple[int, int]:
        row = committed().get(readable(mangled))
        return (row[f"sm_{chip}"], row["threads"]) if row else (0, 1024)

    return needed


@cache
def committed() -> dict[str, dict[str, int]]:
    """The table as it is in the repository."""
    with TABLE.open() as file:
        rows = list(csv.DictReader(file))
    return {
        row["kernel"]: {key: int(value) for key, value in row.items() if key != "kernel"}
        for row in rows
    }


def main() -> None:
    """Write the table."""
    table = measured()
    if not table:
        raise SystemExit(f"{CUDA_LIBRARY_PATH} has no CUDA kernels: build it with nvcc on PATH")
    columns = {column for row in table.values() for column in row} - {"threads"}
    architectures = sorted(columns, key=lambda a: int(a[3:]))
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["kernel", "threads", *architectures], lineterminator="\n")
        writer.writeheader()
        for kernel in sorted(table):
            writer.writerow({"kernel": kernel, **table[kernel]})
    print(f"{len(table)} kernels on {', '.join(architectures)}: {TABLE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

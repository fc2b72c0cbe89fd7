"""Writes kernels/divergence/registers.csv: registers of every CUDA kernel on every architecture.

    python -m tests.kernels.registers

Read from the built library, so it needs `python setup.py build_ext` with nvcc, and Triton's
disassembler, but no GPU. test_machine_code.py holds the build to the table.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from .building import ROOT
from .disassembly import resources

LIBRARY = ROOT / "sssd" / "_C.so"
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
        r"(?<=\d)(?:Js|JsBeta|Kl|SoftmaxMse|Affine|SoftmaxStats|Moments)(?=[EIL]|$)", match[2]
    )
    layout = "strided" if match[3] == "1" else "contiguous"
    return " ".join([match[1], *member, layout, *["clustered"] * (match[4] == "1")])


def measured(library: Path = LIBRARY) -> dict[str, dict[str, int]]:
    """Registers by kernel and architecture."""
    table: dict[str, dict[str, int]] = {}
    for name, used in resources(library).items():
        architecture, mangled = name.split(" ")
        if kernel := readable(mangled):
            table.setdefault(kernel, {})[architecture] = used["REG"]
    return table


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
        raise SystemExit(f"{LIBRARY} has no CUDA kernels: build it with nvcc on PATH")
    architectures = sorted({a for row in table.values() for a in row}, key=lambda a: int(a[3:]))
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["kernel", *architectures], lineterminator="\n")
        writer.writeheader()
        for kernel in sorted(table):
            writer.writerow({"kernel": kernel, **table[kernel]})
    print(f"{len(table)} kernels on {', '.join(architectures)}: {TABLE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

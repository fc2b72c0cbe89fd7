"""What nvcc made of the CUDA kernels in the built library, for every architecture."""

from __future__ import annotations

from collections import Counter

import pytest

from sssd.ops.dispatch import CUDA_LIBRARY_PATH
from tests.kernels import registers
from tests.kernels.disassembly import library_instructions, recorded, resources

SLACK = 16  # registers more than the table says, before somebody should look
CLUSTERS = {"sm_90", "sm_100", "sm_120"}  # architectures that have them


@pytest.fixture(scope="module")
def table() -> dict[str, dict[str, int]]:
    if not CUDA_LIBRARY_PATH.exists() or not registers.measured():
        pytest.skip("the library is built without CUDA kernels")
    return registers.measured()


@pytest.fixture(scope="module")
def code(table: dict[str, dict[str, int]]) -> dict[str, Counter[str]]:
    found = library_instructions()
    ours = {name: used for name, used in found.items() if registers.readable(name.split(" ")[1])}
    assert len(ours) >= len(table) * len(recorded())
    return ours


def test_nothing_spills(table: dict[str, dict[str, int]]) -> None:
    checked = 0
    for name, used in resources(CUDA_LIBRARY_PATH).items():
        if registers.readable(name.split(" ")[1]):
            checked += 1
            assert used["STACK"] == 0, name
            assert used["LOCAL"] == 0, name
    assert checked >= len(table)


def test_registers_are_those_of_the_table(table: dict[str, dict[str, int]]) -> None:
    """`python -m tests.kernels.registers` writes the table anew."""
    expected = registers.committed()
    assert table.keys() == expected.keys()
    for kernel, row in table.items():
        assert row.keys() == recorded() | {"threads"}
        assert row["threads"] == expected[kernel]["threads"]
        for architecture in recorded() & expected[kernel].keys():
            count = row[architecture]
            assert count <= expected[kernel][architecture] + SLACK, f"{kernel} on {architecture}"


def test_no_local_memory(code: dict[str, Counter[str]]) -> None:
    for name, used in code.items():
        local = [i for i in used if i.split(".")[0] in ("LDL", "STL")]
        assert not local, f"{name}: {local}"


def test_whole_vectors(code: dict[str, Counter[str]]) -> None:
    """Maps are loaded, and gradients stored, by 128-bit instructions."""
    checked = 0
    for name, used in code.items():
        architecture, kernel = _readable(name).split(" ", 1)
        if kernel.split(" ")[0] not in ("forward", "statistics", "backward"):
            continue
        if kernel.endswith(" clustered") and architecture not in CLUSTERS:
            continue  # nothing but its name
        checked += 1
        assert any(i.startswith("LDG") and ".128" in i for i in used), name
        if kernel.startswith("backward"):
            assert any(i.startswith("STG") and ".128" in i for i in used), name
    assert checked == 20 * len(recorded()) + 8 * len(CLUSTERS & recorded())


def _readable(name: str) -> str:
    """Architecture and kernel, of a name in the library."""
    architecture, mangled = name.split(" ")[:2]
    return f"{architecture} {registers.readable(mangled)}"


def test_no_double_precision(code: dict[str, Counter[str]]) -> None:
    """A double sneaking into a formula costs 64 times its float on most GPUs."""
    for name, used in code.items():
        double = [i for i in used if i.split(".")[0] in ("DADD", "DMUL", "DFMA", "DSETP")]
        assert not double, f"{name}: {double}"

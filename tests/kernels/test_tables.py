"""What stands in Python and in C++: the settings and their numbers."""

from __future__ import annotations

import re
from typing import Any

from sssd.ops import box_kernels
from sssd.ops.divergence_kernels import CHOICES
from tests.kernels import interpreted
from tests.kernels.building import ROOT
from tests.ops.divergence_cases import DEFAULTS, KERNEL_MEMBERS, MEMBERS

# By the names of C++. The kernels know no None, and reverse_kl as kl with the lists swapped.
TABLES: dict[str, tuple[Any, ...]] = {
    "Over": CHOICES["over"],
    "Normalize": CHOICES["normalize"],
    "Measure": CHOICES["divergence"][:-1],
    "Root": ("none", *CHOICES["root"][1:]),
    "Rows": CHOICES["rows"],
    "Elements": CHOICES["elements"],
    "Profile": box_kernels.PROFILES,
    "Combine": box_kernels.COMBINES,
}


def test_enumerations_stand_once_in_cpp_in_the_order_of_python() -> None:
    assert CHOICES["divergence"][-1] == "reverse_kl"
    found: dict[str, list[tuple[str, ...]]] = {}
    for folder in ("kernels", "csrc"):
        for path in (ROOT / folder).rglob("*.*"):
            if path.suffix in (".h", ".cuh", ".cpp", ".cu"):
                for name, values in re.findall(
                    r"enum class (\w+)[^{]*\{([^}]*)\}", path.read_text()
                ):
                    found.setdefault(name, []).append(tuple(re.findall(r"\w+", values)))
    assert {name: found[name] for name in TABLES} == {name: [t] for name, t in TABLES.items()}
    every = [frozenset(values) for copies in found.values() for values in copies]
    for name, values in TABLES.items():
        assert every.count(frozenset(values)) == 1, name


def test_no_second_list_in_python() -> None:
    """Names in a row, quoted or as constants, belong to the table: elsewhere they are looked up."""
    for path in (ROOT / "sssd" / "ops").rglob("*.py"):
        if path.name in ("divergence_kernels.py", "box_kernels.py") and path.parent.name == "ops":
            continue
        text = re.sub(r'"""[\s\S]*?"""', "", path.read_text())  # a docstring names them for users
        for name, values in TABLES.items():
            if len(values) > 2:
                row = r"\W+".join(map(str, values))
                assert not re.search(row, text, re.IGNORECASE), f"{path.name} repeats {name}"


def test_every_choice_occurs_in_the_tests_of_every_backend() -> None:
    """Of `rows`, "none" has tests of its own: it leaves the backends nothing to do."""
    kernels = {
        "divergence": {*CHOICES["divergence"]} - {"reverse_kl"},
        "rows": {*CHOICES["rows"]} - {"none"},
        **{name: {*CHOICES[name]} for name in ("normalize", "root", "elements")},
    }
    triton = {case.member: KERNEL_MEMBERS[case.member] for case in interpreted.cases()}
    for table, wanted in (
        (MEMBERS, kernels | {"divergence": {*CHOICES["divergence"]}}),  # CPU, GPU, reference
        (KERNEL_MEMBERS, kernels),  # CUDA on the emulator
        (triton, kernels),
    ):
        found = {n: {(DEFAULTS | m)[n] for m in table.values()} for n in wanted}
        assert found == wanted
    strided = {(c.member, (c.over, c.last) in interpreted.STRIDED) for c in interpreted.cases()}
    assert strided == {(member, way) for member in KERNEL_MEMBERS for way in (True, False)}
    assert {c.over for c in interpreted.cases()} == {*CHOICES["over"]}

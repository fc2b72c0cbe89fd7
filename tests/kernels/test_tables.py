"""What stands in Python and in C++: the settings, their numbers, planes and layouts."""

from __future__ import annotations

import re
from itertools import product
from types import ModuleType
from typing import Any

import pytest
import torch

from sssd.ops import box_kernels
from sssd.ops.divergence_kernels import CHOICES, number, saved_planes

from .building import ROOT
from .host_cuda import map_of, settings_of

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
        assert every.count(frozenset(values)) == (2 if name == "Rows" or name == "Elements" else 1)


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


@pytest.mark.parametrize("normalize", CHOICES["normalize"])
def test_planes_are_as_many_in_cpp(module: ModuleType, normalize: str) -> None:
    level = map_of(torch.zeros(1, 2, 3, 4), "channels")
    level |= dict.fromkeys(("student", "teacher", "grad_student", "grad_teacher", "weights"), 0)
    for divergence in ("js", "kl", "mse") if normalize == "softmax" else ("mse", "cosine"):
        expected = saved_planes(number("normalize", normalize), number("divergence", divergence))
        settings = settings_of(normalize=normalize, divergence=divergence)
        rows, planes, _ = module.sizes([level], 0, 0, settings)
        assert rows == 12
        assert planes == expected


def test_triton_sees_the_rows_that_the_library_sees(module: ModuleType) -> None:
    triton = pytest.importorskip("sssd.ops.triton.divergence")
    for over, last, shape in product(
        CHOICES["over"], (False, True), [(2, 3, 4, 5), (3, 7, 1, 2), (1, 5, 6, 7)]
    ):
        x = torch.empty(shape)
        x = x.to(memory_format=torch.channels_last) if last else x
        seen = triton.layout_of(x, number("over", over))
        outer, segments, length, inner, outer_stride, segment_stride = module.layout(
            number("over", over), shape[0], shape[1], shape[2] * shape[3], not x.is_contiguous()
        )
        assert (seen.rows, seen.inner, seen.length) == (outer * inner, inner, length)
        assert seen.pieces // seen.parts == segments
        if outer > 1:
            assert seen.outer_stride == outer_stride
        if segments > 1:
            assert seen.segment_stride == segment_stride

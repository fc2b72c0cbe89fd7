"""What nvcc made of the box kernels in the built library, for every architecture."""

from __future__ import annotations

import re

import pytest

from sssd.ops.dispatch import CUDA_LIBRARY_PATH as LIBRARY
from tests.kernels.disassembly import embedded, library_instructions, recorded, resources

PREPARING = {"spans", "stamps"}  # of all dtypes
OPERATORS = {"paint", "pool", "heatmap"}
MOST_REGISTERS = 128  # a thread, for two blocks of 256 threads an SM
_MANGLED = re.compile(
    rf"(sm_\d+) _ZN4sssd10boxes_cuda\d+({'|'.join(sorted(OPERATORS | PREPARING))})_kernel"
)


@pytest.fixture(scope="module")
def kernels() -> dict[str, tuple[str, str]]:
    """Architecture and operator of each box kernel, by its name in the library."""
    if not LIBRARY.exists():
        pytest.skip("the library is not built")
    matches = {name: _MANGLED.match(name) for name in resources(LIBRARY)}
    found = {name: (match[1], match[2]) for name, match in matches.items() if match}
    if not found:
        pytest.skip("the library is built without CUDA kernels")
    return found


def test_every_dtype_on_every_architecture(kernels):
    for operator in OPERATORS | PREPARING:
        built = [architecture for architecture, name in kernels.values() if name == operator]
        assert set(built) == recorded()
        assert len(built) == len(recorded()) * (1 if operator in PREPARING else 3)


def test_the_library_records_what_is_in_it(kernels):
    for kind in ("elf", "ptx"):
        assert embedded(LIBRARY, kind) == recorded(kind)


@pytest.mark.slow
def test_double_precision_is_left_behind_before_the_tiles(kernels):
    """Spans and stamps are worked out once a call."""
    code = library_instructions()
    for name, (_, operator) in kernels.items():
        double = [i for i in code[name] if re.match(r"D(ADD|MUL|FMA|SETP)|MUFU.*64H|.*\.F64", i)]
        assert bool(double) == (operator in PREPARING), f"{name}: {double}"


def test_nothing_spills_and_two_blocks_fit(kernels):
    used = resources(LIBRARY)
    for name in kernels:
        assert used[name]["STACK"] == 0, name
        assert used[name]["LOCAL"] == 0, name
        assert used[name]["REG"] <= MOST_REGISTERS, name


def test_channels_last_tiles_are_written_by_vectors(kernels):
    code = library_instructions()
    for name, (_, operator) in kernels.items():
        stores = [i for i in code[name] if i.startswith("STG")]
        assert operator != "paint" or any(".64" in i or ".128" in i for i in stores), name
        assert not [i for i in code[name] if i.split(".")[0] in ("ATOM", "ATOMG", "RED")], name

"""Counted global memory of the CUDA kernels, run on the CPU, against the least there can be."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from tests.kernels.host_cuda import run

# P3 to P7 of 320 x 320 at 256 channels; every size is a multiple of a vector but the last two.
PYRAMID = [(1, 256, 40, 40), (1, 256, 20, 20), (1, 256, 10, 10), (1, 256, 5, 5), (1, 256, 3, 3)]
ALIGNED = [(1, 256, 40, 40), (2, 64, 16, 24)]


def maps(
    shapes: list[tuple[int, ...]], dtype: torch.dtype, last: bool
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    layout = torch.channels_last if last else torch.contiguous_format
    student = [torch.randn(shape).to(dtype).contiguous(memory_format=layout) for shape in shapes]
    return student, [torch.randn_like(x) for x in student]


def size(maps: list[torch.Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in maps)


def overhead(student: list[torch.Tensor], over: str) -> int:
    """What may come on top of the maps: the saved planes, twice, and the sums of tiles."""
    rows = sum(
        x.numel() // {"channels": x.shape[1], "cells": x[0, 0].numel()}[over] for x in student
    )
    return 2 * 16 * rows + 2**14


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("over", ["channels", "cells"])
def test_every_element_is_read_once_forward_if_a_row_fits_and_once_backward(
    module: ModuleType, over: str, last: bool, dtype: torch.dtype
) -> None:
    student, teacher = maps(PYRAMID, dtype, last)
    result = run(
        module, student, teacher, over=over, root="level", grad_values=torch.ones(5),
        play={"chip": 86, "counting": True},
    )  # fmt: skip
    both, extra = 2 * size(student), overhead(student, over)
    forward, backward = result.traffic
    assert both <= forward["load_bytes"] <= both + extra
    assert forward["store_bytes"] <= extra
    assert forward["launches"] == 2  # rows; the ordered sum of the tiles
    assert both <= backward["load_bytes"] <= both + extra
    assert backward["store_bytes"] == both
    assert backward["launches"] == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_512_channels_are_read_once(module: ModuleType, dtype: torch.dtype) -> None:
    student, teacher = maps([(1, 512, 8, 16)], dtype, False)
    result = run(module, student, teacher, play={"chip": 75, "counting": True})
    assert result.traffic[0]["load_bytes"] <= 2 * size(student) + overhead(student, "channels")


@pytest.mark.parametrize("last", [False, True])
def test_the_longest_rows_are_read_at_most_twice(module: ModuleType, last: bool) -> None:
    student, teacher = maps([(1, 8, 168, 160)], torch.float32, last)
    result = run(module, student, teacher, over="cells", play={"chip": 86, "counting": True})
    assert result.traffic[0]["load_bytes"] <= 4 * size(student) + 2**17
    assert result.traffic[0]["launches"] == 3


@pytest.mark.parametrize(
    ("dtype", "last", "chip"),
    [
        (torch.float32, False, 80),
        (torch.float32, False, 120),
        (torch.bfloat16, False, 86),
        (torch.float32, True, 90),
        (torch.bfloat16, True, 90),
    ],
)
def test_rows_of_p3_of_800_x_1344_are_read_once(
    module: ModuleType, dtype: torch.dtype, last: bool, chip: int
) -> None:
    """16,800 cells: in one block, or in the blocks of a cluster."""
    student, teacher = maps([(1, 16, 100, 168)], dtype, last)
    result = run(module, student, teacher, over="cells", play={"chip": chip, "counting": True})
    statistics = 2**15  # of the pieces
    assert result.traffic[0]["load_bytes"] <= 2 * size(student) + statistics
    assert result.traffic[0]["launches"] == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("over", ["channels", "cells"])
def test_accesses_of_a_warp_waste_no_sector(
    module: ModuleType, over: str, last: bool, dtype: torch.dtype
) -> None:
    """32-byte sectors touched by each warp access, against the fewest that hold its bytes."""
    student, teacher = maps(ALIGNED, dtype, last)
    result = run(
        module, student, teacher, over=over, grad_values=torch.ones(2), play={"counting": True}
    )
    for counted in result.traffic:
        assert counted["load_sectors"] <= 1.01 * counted["load_ideal"]
        assert counted["store_sectors"] <= 1.01 * counted["store_ideal"]
    for counted, vectors in zip(result.traffic, (440, 300), strict=True):
        mean = counted["load_bytes"] / counted["load_accesses"]
        assert mean > vectors, "128-bit loads move 512 bytes a warp; numbers of a row are 32-bit"


@pytest.mark.parametrize("over", ["channels", "cells"])
def test_odd_sizes_waste_little(module: ModuleType, over: str) -> None:
    student, teacher = maps([(1, 64, 13, 21)], torch.float32, False)
    result = run(module, student, teacher, over=over, play={"counting": True})
    counted = result.traffic[0]
    assert counted["load_bytes"] <= 2 * size(student) + overhead(student, over)
    assert counted["load_sectors"] <= 2 * counted["load_ideal"]

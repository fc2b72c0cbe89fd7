"""Pool and paint in Triton: the contract of csrc/boxes.cpp, a launch for all levels of a format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
import triton
from torch import Tensor

from sssd.ops.box_kernels import is_channels_last, new_maps
from sssd.ops.triton import box_kernels as kernels
from sssd.ops.triton.box_geometry import windows_kernel

CHANNELS = 32  # that a program takes
OBJECT_CELLS = 32  # that it takes of an object at a time
TILE_CELLS = 64
OBJECTS = 128  # that a program of `windows_kernel` takes


def why_not(**settings: Any) -> str:
    """What keeps Triton from a call: nothing."""
    return ""


def grouped(key: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Objects in the order of a key, and where each of the groups 0 .. groups - 1 starts, and ends.

    Objects of one key keep their order; those of another key than these come last.
    """
    key = key.long()
    key = key.where((key >= 0) & (key < groups), groups)
    ordered, order = key.sort(stable=True)
    ends = torch.arange(groups + 1, device=key.device)
    return order, torch.searchsorted(ordered, ends)  # (T,), (groups + 1,)


def windows_of(
    boxes: Tensor,
    order: Tensor,
    image_size: Sequence[int],
    shapes: Sequence[tuple[int, int]],
    *,
    profile: int = 0,
    min_overlap: float = 0.0,
    assigned: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`windows` and `numbers` of `windows_kernel`, (P, T, 4) each."""
    windows = boxes.new_empty(len(shapes), len(order), 4, dtype=torch.int32)
    numbers = windows.new_empty(windows.shape if profile else 0, dtype=torch.float32)
    if windows.numel():
        windows_kernel[(len(shapes), triton.cdiv(len(order), OBJECTS))](
            boxes, order, windows if assigned is None else assigned.view(torch.uint8), windows,
            numbers, *sides(shapes), *image_size, len(order), PROFILE=profile,
            OVERLAP=min_overlap if profile > 1 else 0.0, ASSIGNED=assigned is not None,
            BLOCK=OBJECTS, enable_fp_fusion=False,
        )  # fmt: skip
    return windows, numbers


def sides(shapes: Sequence[tuple[int, int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Heights and widths, as the kernels take them."""
    return tuple(height for height, _ in shapes), tuple(width for _, width in shapes)


def tiles_of(shapes: Sequence[tuple[int, int]], cells: int) -> tuple[tuple[int, ...], int]:
    """The first tile of each level, tiles being so many cells, and how many there are."""
    ends = list(accumulate(triton.cdiv(height * width, cells) for height, width in shapes))
    return (0, *ends[:-1]), ends[-1]


def by_format(channels_last: Sequence[bool]) -> Iterator[tuple[bool, list[int]]]:
    """Channels-last or not, and the levels that are so, where there are any."""
    for last in (False, True):
        places = [place for place, flag in enumerate(channels_last) if bool(flag) == last]
        if places:
            yield last, places


def box_pool(
    levels: Sequence[Tensor], boxes: Tensor, image_index: Tensor, image_size: list[int], mean: bool
) -> Tensor:
    """The mean or sum of each map over each object's cells, (P, T, C)."""
    batch, channels = levels[0].shape[:2]
    count, boxes, image_index = len(boxes), boxes.contiguous(), image_index.contiguous()
    pooled = levels[0].new_empty(len(levels), count, channels)
    dense = [x if is_channels_last(x) else x.contiguous() for x in levels]
    for last, places in by_format([is_channels_last(x) for x in dense]):
        here = [(dense[place].shape[2], dense[place].shape[3]) for place in places]
        programs = len(places) * count * triton.cdiv(channels, CHANNELS)
        if programs:
            kernels.pool_kernel[(programs,)](
                tuple(dense[place] for place in places),
                tuple(pooled[place] for place in places),
                boxes, image_index, *sides(here), *image_size, count, batch, channels,
                LAST=last, MEAN=mean, CHANNELS=CHANNELS,
                BLOCK=OBJECT_CELLS,
            )  # fmt: skip
    return pooled


def box_paint(
    values: Tensor,
    boxes: Tensor,
    image_index: Tensor,
    image_size: list[int],
    shapes: list[int],
    batch: int,
    channels_last: list[int],
    mean: bool,
) -> list[Tensor]:
    """Maps (B, C, H_l, W_l) with the sum of the vectors of the objects that cover each cell."""
    channels = values.shape[-1]
    sizes = list(zip(shapes[::2], shapes[1::2], strict=True))
    maps = new_maps(values, batch, channels, shapes, channels_last)
    values, boxes = values.contiguous(), boxes.contiguous()
    order, start = grouped(image_index, batch)
    for last, places in by_format([bool(flag) for flag in channels_last]):
        here = [sizes[place] for place in places]
        windows, _ = windows_of(boxes, order, image_size, here)
        first, tiles = tiles_of(here, TILE_CELLS)
        programs = tiles * batch * triton.cdiv(channels, CHANNELS)
        if programs:
            kernels.paint_kernel[(programs,)](
                tuple(maps[place] for place in places),
                tuple(values[place] if values.dim() == 3 else values for place in places),
                order, start, windows, *sides(here), first, len(boxes), batch, channels,
                LAST=last, MEAN=mean, CHANNELS=CHANNELS, BLOCK=TILE_CELLS,
            )  # fmt: skip
    return maps

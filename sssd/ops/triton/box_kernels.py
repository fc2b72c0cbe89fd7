# mypy: disable-error-code="no-untyped-def"
# (what @triton.jit compiles has no Python types)
"""Pool and paint in Triton: a program takes one object, or one tile of cells, for some channels."""

from __future__ import annotations

import triton
import triton.language as tl

from sssd.ops.triton.box_geometry import cell_span, load_box, load_window
from sssd.ops.triton.box_tiles import cells_of, holds, level_of, tile_pointers


@triton.jit(
    do_not_specialize=["heights", "widths", "image_height", "image_width", "count", "batch"]
)
def pool_kernel(
    maps, pooled, boxes, image_index, heights, widths, image_height, image_width, count, batch,
    channels, LAST: tl.constexpr, MEAN: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """pooled[l] (T, C) of the levels `maps`, which all have one memory format."""
    program = tl.program_id(0)
    blocks = (channels + CHANNELS - 1) // CHANNELS
    channel = program % blocks * CHANNELS + tl.arange(0, CHANNELS)
    t = program // blocks % count
    level = program // blocks // count
    map_pointer, to, height, width = maps[0], pooled[0], heights[0], widths[0]
    for other in tl.static_range(1, len(heights)):
        if level == other:
            map_pointer, to, height, width = (
                maps[other],
                pooled[other],
                heights[other],
                widths[other],
            )
    image = tl.load(image_index + t)
    x1, y1, x2, y2, usable = load_box(boxes, t, True)
    usable = usable & (image >= 0) & (image < batch)
    left, right, top, bottom = cell_span(
        x1, y1, x2, y2, usable, image_height, image_width, height, width
    )
    across = tl.maximum(right - left, 1)
    cells = (right - left) * (bottom - top)
    lives = channel < channels
    area = (height * width).to(tl.int64)
    if LAST:
        plane = map_pointer + (image * area * channels + channel)[:, None]
    else:
        plane = map_pointer + ((image * channels + channel) * area)[:, None]
    total = tl.zeros((CHANNELS, BLOCK), tl.float32)
    for start in range(0, cells, BLOCK):
        place = start + tl.arange(0, BLOCK)
        cell = ((top + place // across) * width + left + place % across).to(tl.int64)
        if LAST:
            cell *= channels
        inside = lives[:, None] & (place < cells)[None, :]
        total += tl.load(plane + cell[None, :], mask=inside, other=0.0).to(tl.float32)
    result = tl.sum(total, 1)
    if MEAN:
        result /= tl.maximum(cells, 1).to(tl.float32)
    at = t.to(tl.int64) * channels + channel
    tl.store(to + at, result.to(to.dtype.element_ty), mask=lives)


@triton.jit(do_not_specialize=["heights", "widths", "first", "count", "batch"])
def paint_kernel(
    maps, values, order, start, windows, heights, widths, first, count, batch, channels,
    LAST: tl.constexpr, MEAN: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The levels `maps`, which all have one memory format, from values[l] (T, C).

    Objects start[b] .. start[b + 1] - 1 of `order` and `windows` are those of image b.
    """
    blocks = (channels + CHANNELS - 1) // CHANNELS
    program = tl.program_id(0)
    image = program % batch
    first_channel = program // batch % blocks * CHANNELS
    channel = first_channel + tl.arange(0, CHANNELS)
    tile = program // batch // blocks
    level, map_pointer, height, width, begin = level_of(tile, maps, heights, widths, first)
    value_pointer = values[0]
    for other in tl.static_range(1, len(heights)):
        if level == other:
            value_pointer = values[other]
    first_cell = (tile - begin) * BLOCK
    row, column, exists, first_row, end_row = cells_of(first_cell, height, width, BLOCK)
    lives = channel < channels
    painted = tl.zeros((CHANNELS, BLOCK), tl.float32)
    for k in range(tl.load(start + image), tl.load(start + image + 1)):
        left, right, top, bottom = load_window(windows, level.to(tl.int64) * count + k)
        if (top < end_row) & (bottom > first_row):
            at = tl.load(order + k) * channels + channel
            value = tl.load(value_pointer + at, mask=lives, other=0.0).to(tl.float32)
            if MEAN:
                value /= ((right - left) * (bottom - top)).to(tl.float32)
            inside = holds(left, right, top, bottom, row, column)
            painted += tl.where(inside[None, :], value[:, None], 0.0)
    to = tile_pointers(
        map_pointer, image, first_cell, first_channel, height * width, channels,
        LAST, CHANNELS, BLOCK,
    )  # fmt: skip
    mask = lives[:, None] & exists[None, :]
    tl.store(to, painted.to(map_pointer.dtype.element_ty), mask=mask)

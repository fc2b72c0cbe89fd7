# mypy: disable-error-code="no-untyped-def"
# (what @triton.jit compiles has no Python types)
"""Tiles of cells of all levels in one launch, in Triton."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def level_of(tile, maps, heights, widths, first):
    """The level that owns a tile: its number, map, height, width, and its first tile.

    The tiles of level l start at first[l]; a tile is BLOCK cells in a row of memory.
    """
    level = tile * 0
    pointer, height, width, begin = maps[0], heights[0], widths[0], first[0]
    for other in tl.static_range(1, len(heights)):
        if tile >= first[other]:
            level = tile * 0 + other
            pointer, height, width, begin = maps[other], heights[other], widths[other], first[other]
    return level, pointer, height, width, begin


@triton.jit
def cells_of(start, height, width, BLOCK: tl.constexpr):
    """Of cells start, start + 1, ...: rows, columns, which exist, the first and the end row."""
    cell = start + tl.arange(0, BLOCK)
    last = tl.minimum(start + BLOCK, height * width) - 1
    return cell // width, cell % width, cell < height * width, start // width, last // width + 1


@triton.jit
def tile_pointers(
    pointer, image, start, channel, cells, channels,
    LAST: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of channels `channel`, ... of cells `start`, ... of an image, (CHANNELS, BLOCK).

    LAST is channels-last. Offsets inside a tile fit into 32 bits, which saves registers.
    """
    c, n = tl.arange(0, CHANNELS)[:, None], tl.arange(0, BLOCK)[None, :]
    if LAST:
        return (
            pointer
            + ((cells.to(tl.int64) * image + start) * channels + channel)
            + (n * channels + c)
        )
    return pointer + ((channels.to(tl.int64) * image + channel) * cells + start) + (c * cells + n)


@triton.jit
def holds(left, right, top, bottom, row, column):
    """Which cells are in a window."""
    return (row >= top) & (row < bottom) & (column >= left) & (column < right)

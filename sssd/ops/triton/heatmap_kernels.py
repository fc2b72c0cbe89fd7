# mypy: disable-error-code="no-untyped-def"
# (what @triton.jit compiles has no Python types)
"""Label heatmaps in Triton, plain and embedded: a program takes one tile of cells.

Objects come ordered by image, then class; start[b K + k] is the first of image b and class k.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sssd.ops.triton.box_geometry import load_window, profile_at
from sssd.ops.triton.box_tiles import cells_of, holds, level_of, tile_pointers


@triton.jit
def draw(
    heat, windows, numbers, strength, at, k, row, column,
    PROFILE: tl.constexpr, MAX: tl.constexpr, STRENGTH: tl.constexpr,
):  # fmt: skip
    """The heat of some cells with one more object: number k, whose windows are at `at`."""
    left, right, top, bottom = load_window(windows, at)
    value = profile_at(numbers, at, row - top, column - left, PROFILE)
    if STRENGTH:
        value *= tl.load(strength + k)
    value = tl.where(holds(left, right, top, bottom, row, column), value, 0.0)
    if MAX:
        return tl.maximum(heat, value)
    return heat + value


@triton.jit
def meets(windows, at, first_row, end_row):
    """Whether the window of an object has rows in common with a tile."""
    return (tl.load(windows + 4 * at + 2) < end_row) & (tl.load(windows + 4 * at + 3) > first_row)


@triton.jit(do_not_specialize=["heights", "widths", "first", "count", "groups"])
def heatmap_kernel(
    maps, start, windows, numbers, strength, heights, widths, first, count, groups,
    PROFILE: tl.constexpr, MAX: tl.constexpr, STRENGTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """maps[l] (B, K, cells) are written, every element; `groups` is B K."""
    program = tl.program_id(0)
    group, tile = program % groups, program // groups
    level, map_pointer, height, width, begin = level_of(tile, maps, heights, widths, first)
    first_cell = (tile - begin) * BLOCK
    row, column, exists, first_row, end_row = cells_of(first_cell, height, width, BLOCK)
    heat = tl.zeros((BLOCK,), tl.float32)
    for k in range(tl.load(start + group), tl.load(start + group + 1)):
        at = level.to(tl.int64) * count + k
        if meets(windows, at, first_row, end_row):
            heat = draw(
                heat, windows, numbers, strength, at, k, row, column, PROFILE, MAX, STRENGTH
            )
    to = map_pointer + (group.to(tl.int64) * height * width + first_cell)
    tl.store(to + tl.arange(0, BLOCK), heat.to(map_pointer.dtype.element_ty), mask=exists)


@triton.jit
def mix(total, heat, embedding, label, channel, lives, channels):
    """The sum of a tile with one more class: its heat times its vector. -1 is no class."""
    at = embedding + label * channels + channel
    vector = tl.load(at, mask=lives & (label >= 0), other=0.0)
    return total + vector.to(tl.float32)[:, None] * heat[None, :]


@triton.jit(do_not_specialize=["heights", "widths", "first", "count", "batch", "classes"])
def embed_kernel(
    maps, embedding, labels, start, windows, numbers, strength, heights, widths, first, count,
    batch, classes, channels,
    PROFILE: tl.constexpr, MAX: tl.constexpr, STRENGTH: tl.constexpr, CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """maps[l] (B, C, cells), contiguous, from embedding (K, C); labels (T,) in the given order."""
    program = tl.program_id(0)
    blocks = (channels + CHANNELS - 1) // CHANNELS
    image = program % batch
    first_channel = program // batch % blocks * CHANNELS
    channel = first_channel + tl.arange(0, CHANNELS)
    tile = program // batch // blocks
    level, map_pointer, height, width, begin = level_of(tile, maps, heights, widths, first)
    first_cell = (tile - begin) * BLOCK
    row, column, exists, first_row, end_row = cells_of(first_cell, height, width, BLOCK)
    lives = channel < channels
    total = tl.zeros((CHANNELS, BLOCK), tl.float32)
    heat = tl.zeros((BLOCK,), tl.float32)  # of class `drawn`
    drawn = tl.full((), -1, tl.int64)
    groups = start + image * classes
    for k in range(tl.load(groups), tl.load(groups + classes)):
        at = level.to(tl.int64) * count + k
        if meets(windows, at, first_row, end_row):
            label = tl.load(labels + k)
            if label != drawn:
                total = mix(total, heat, embedding, drawn, channel, lives, channels)
                heat = tl.zeros((BLOCK,), tl.float32)
                drawn = label
            heat = draw(
                heat, windows, numbers, strength, at, k, row, column, PROFILE, MAX, STRENGTH
            )
    total = mix(total, heat, embedding, drawn, channel, lives, channels)
    to = tile_pointers(
        map_pointer, image, first_cell, first_channel, height * width, channels,
        False, CHANNELS, BLOCK,
    )  # fmt: skip
    mask = lives[:, None] & exists[None, :]
    tl.store(to, total.to(map_pointer.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["heights", "widths", "first", "count", "batch", "classes"])
def embed_backward_kernel(
    grads, partials, start, windows, numbers, strength, heights, widths, first, count, batch,
    classes, channels,
    PROFILE: tl.constexpr, MAX: tl.constexpr, STRENGTH: tl.constexpr, CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """The gradient of the vectors from each strip of TILES tiles: partials (strips, K, C).

    The strips of level l start at first[l].
    """
    program = tl.program_id(0)
    blocks = (channels + CHANNELS - 1) // CHANNELS
    first_channel = program % blocks * CHANNELS
    channel = first_channel + tl.arange(0, CHANNELS)
    label = program // blocks % classes
    strip = program // blocks // classes
    level, grad_pointer, height, width, begin = level_of(strip, grads, heights, widths, first)
    lives = channel < channels
    total = tl.zeros((CHANNELS, BLOCK), tl.float32)
    strip_start = (strip - begin) * (BLOCK * TILES)
    for image in range(0, batch):
        group = start + image * classes + label
        first_object, end_object = tl.load(group), tl.load(group + 1)
        if end_object > first_object:
            for tile in range(0, TILES):
                first_cell = strip_start + tile * BLOCK
                row, column, exists, first_row, end_row = cells_of(first_cell, height, width, BLOCK)
                heat = tl.zeros((BLOCK,), tl.float32)
                found = 0
                for k in range(first_object, end_object):
                    at = level.to(tl.int64) * count + k
                    if meets(windows, at, first_row, end_row):
                        found += 1
                        heat = draw(
                            heat, windows, numbers, strength, at, k, row, column,
                            PROFILE, MAX, STRENGTH,
                        )  # fmt: skip
                if found > 0:
                    at = tile_pointers(
                        grad_pointer, image, first_cell, first_channel, height * width, channels,
                        False, CHANNELS, BLOCK,
                    )  # fmt: skip
                    drawn = lives[:, None] & (exists & (heat != 0.0))[None, :]
                    grad = tl.load(at, mask=drawn, other=0.0)
                    total += grad.to(tl.float32) * heat[None, :]
    to = partials + (strip.to(tl.int64) * classes + label) * channels + channel
    tl.store(to, tl.sum(total, 1), mask=lives)

# mypy: disable-error-code="no-untyped-def"
# (what @triton.jit compiles has no Python types)
"""Rows of a level in Triton: where their elements lie, and what a row's elements say together."""

from __future__ import annotations

import triton
import triton.language as tl

from sssd.ops.triton.members import INFINITY

NONE, STANDARDIZE, STANDARDIZE_UNBIASED, L2 = (tl.constexpr(i) for i in range(4))


@triton.jit
def find_level(levels, program, ALIGNED: tl.constexpr):
    """The geometry (divergence_plan.Geometry) of the level that owns a program."""
    (
        program0, partial0, outer, segments, length, inner, outer_stride, segment_stride, row0,
        pieces, piece_length, slot0,
    ) = levels[0]  # fmt: skip
    for i in tl.static_range(1, len(levels)):
        here = program >= levels[i][0]
        program0 = tl.where(here, levels[i][0], program0)
        partial0 = tl.where(here, levels[i][1], partial0)
        outer = tl.where(here, levels[i][2], outer)
        segments = tl.where(here, levels[i][3], segments)
        length = tl.where(here, levels[i][4], length)
        inner = tl.where(here, levels[i][5], inner)
        outer_stride = tl.where(here, levels[i][6], outer_stride)
        segment_stride = tl.where(here, levels[i][7], segment_stride)
        row0 = tl.where(here, levels[i][8], row0)
        pieces = tl.where(here, levels[i][9], pieces)
        piece_length = tl.where(here, levels[i][10], piece_length)
        slot0 = tl.where(here, levels[i][11], slot0)
    if ALIGNED:
        length, inner = tl.multiple_of(length, 8), tl.multiple_of(inner, 8)
        outer_stride = tl.multiple_of(outer_stride, 8)
        segment_stride = tl.multiple_of(segment_stride, 8)
    return (
        program - program0, partial0, outer, segments, length, inner, outer_stride, segment_stride,
        row0, pieces, piece_length, slot0,
    )  # fmt: skip


@triton.jit
def find_map(maps, levels, program, ALIGNED: tl.constexpr):
    """The pointer that belongs to the level that owns a program."""
    chosen = maps[0]
    for i in tl.static_range(1, len(levels)):
        chosen = tl.where(program >= levels[i][0], maps[i], chosen)
    if ALIGNED:
        chosen = tl.multiple_of(chosen, 16)
    return chosen


@triton.jit
def place_rows(tile, outer, inner, outer_stride, STRIDED: tl.constexpr, ROWS: tl.constexpr):
    """Rows of a tile: their number in the level, the offset of their first element, which exist."""
    if STRIDED:  # neighbours in memory are neighbouring rows
        tiles = (inner + ROWS - 1) // ROWS
        column = tile % tiles * ROWS + tl.arange(0, ROWS)
        image = (tile // tiles).to(tl.int64)
        return image * inner + column, image * outer_stride + column, column < inner
    row = tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    return row, row * outer_stride, row < outer


@triton.jit
def place_elements(
    start, stop, length, inner, segment_stride, STRIDED: tl.constexpr, SEGMENTED: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Elements start, start + 1, ... of a row: their offset in it, which exist before `stop`."""
    element = start + tl.arange(0, BLOCK)
    if STRIDED:
        offset = element.to(tl.int64) * inner
    elif SEGMENTED:
        offset = (element // length).to(tl.int64) * segment_stride + element % length
    else:
        offset = element.to(tl.int64)
    return offset, element < stop


@triton.jit
def load_block(map_pointer, base, offset, exists, padding):
    """Elements of the rows as float32, (ROWS, BLOCK)."""
    x = tl.load(map_pointer + base[:, None] + offset[None, :], mask=exists, other=0.0)
    return tl.where(exists, x.to(tl.float32), padding)


@triton.jit
def softmax_statistics(x, max_x, sum_x, scale):
    """Largest logit and sum of 2^((x - max) scale), with one more block of the row."""
    block_max = tl.max(x, 1)
    both = tl.where(max_x > block_max, max_x, block_max)
    anchor = tl.where(both == -INFINITY, 0.0, both)
    kept = sum_x * tl.exp2((max_x - anchor) * scale)
    return both, kept + tl.sum(tl.exp2((x - anchor[:, None]) * scale), 1)


@triton.jit
def merged_softmax(max_x, sum_x, max_y, sum_y, scale):
    """Largest logit and sum of two parts of a row."""
    both = tl.where(max_x > max_y, max_x, max_y)
    anchor = tl.where(both == -INFINITY, 0.0, both)
    kept = sum_x * tl.exp2((max_x - anchor) * scale)
    return both, kept + sum_y * tl.exp2((max_y - anchor) * scale)


@triton.jit
def moments(x, exists, count, mean, squares, CENTRE: tl.constexpr):
    """Elements so far, mean and sum of squared deviations, with one more block of the row."""
    number = tl.sum(exists.to(tl.float32), 1)
    block_mean = tl.zeros_like(mean)
    if CENTRE:
        block_mean = tl.where(number > 0, tl.sum(x, 1) / tl.maximum(number, 1.0), 0.0)
    gap = tl.where(exists, x - block_mean[:, None], 0.0)
    return merged_moments(count, mean, squares, number, block_mean, tl.sum(gap * gap, 1))


@triton.jit
def merged_moments(count, mean, squares, more, more_mean, more_squares):
    """Elements, mean and sum of squared deviations of two parts of a row."""
    total = count + more
    share = tl.where(total > 0, more / tl.maximum(total, 1.0), 0.0)
    apart = more_mean - mean
    return total, mean + apart * share, squares + more_squares + apart * apart * count * share


@triton.jit
def affine_side(
    mean, squares, variance_of, eps, NORMALIZE: tl.constexpr, COSINE: tl.constexpr
):  # fmt: skip
    """Scale of a row, slope and bend of its gradient, its squared length as cosine counts it."""
    one, zero = tl.full(mean.shape, 1.0, tl.float32), tl.zeros_like(mean)
    if NORMALIZE == NONE and not COSINE:
        return one, zero, zero, one
    CENTRED: tl.constexpr = (NORMALIZE == STANDARDIZE) | (NORMALIZE == STANDARDIZE_UNBIASED)
    if CENTRED and not COSINE:
        variance = squares * variance_of
        deviation = tl.sqrt(variance)
        if NORMALIZE == STANDARDIZE:
            scale = 1.0 / tl.sqrt(variance + eps)
            return scale, scale * variance_of, zero, one
        flat = deviation == 0.0
        slope = tl.where(flat, 0.0, variance_of / tl.where(flat, 1.0, deviation))
        return 1.0 / (deviation + eps), slope, zero, one
    norm = tl.sqrt(squares)
    tiny = norm < eps  # there the row is divided by eps, a plain scaling
    scale = 1.0 / tl.where(tiny, eps, norm)
    bend = zero
    if COSINE:
        bend = tl.where(tiny, scale, 0.0)
    return scale, tl.where(tiny, 0.0, scale), bend, tl.where(tiny, squares * scale * scale, 1.0)

# mypy: disable-error-code="no-untyped-def"
# (what @triton.jit compiles has no Python types)
"""Rows of a level in Triton: where their elements lie, and what a row's elements say together."""

from __future__ import annotations

import triton
import triton.language as tl

from sssd.ops.triton.members import INFINITY

NONE, STANDARDIZE, STANDARDIZE_UNBIASED, L2 = (tl.constexpr(i) for i in range(4))


@triton.jit
def place_rows(outer, inner, outer_stride, STRIDED: tl.constexpr, ROWS: tl.constexpr):
    """Rows of this program: their number, the offset of their first element, which exist."""
    if STRIDED:  # neighbours in memory are neighbouring rows
        tiles = (inner + ROWS - 1) // ROWS
        column = tl.program_id(0) % tiles * ROWS + tl.arange(0, ROWS)
        image = (tl.program_id(0) // tiles).to(tl.int64)
        return image * inner + column, image * outer_stride + column, column < inner
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    return row, row * outer_stride, row < outer


@triton.jit
def place_elements(
    start, length, count, inner, segment_stride, STRIDED: tl.constexpr, SEGMENTED: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Elements start, start + 1, ... of a row: their offset in it, which exist."""
    element = start + tl.arange(0, BLOCK)
    if STRIDED:
        offset = element.to(tl.int64) * inner
    elif SEGMENTED:
        offset = (element // length).to(tl.int64) * segment_stride + element % length
    else:
        offset = element.to(tl.int64)
    return offset, element < count


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
def moments(x, exists, count, mean, squares, CENTRE: tl.constexpr):
    """Elements so far, mean and sum of squared deviations, with one more block of the row."""
    number = tl.sum(exists.to(tl.float32), 1)
    block_mean = tl.zeros_like(mean)
    if CENTRE:
        block_mean = tl.where(number > 0, tl.sum(x, 1) / tl.maximum(number, 1.0), 0.0)
    gap = tl.where(exists, x - block_mean[:, None], 0.0)
    total = count + number
    share = tl.where(total > 0, number / tl.maximum(total, 1.0), 0.0)
    apart = block_mean - mean
    squares += tl.sum(gap * gap, 1) + apart * apart * count * share
    return total, mean + apart * share, squares


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

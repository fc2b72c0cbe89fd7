# mypy: disable-error-code="no-untyped-def"
# (what @triton.jit compiles has no Python types)
"""Rows of the divergence operator in Triton: their statistics, and what they come to."""

from __future__ import annotations

import triton
import triton.language as tl

from sssd.ops.triton.members import AFFINE, INFINITY, JS, JS_BETA, KL, LOG2_E, MSE, settled
from sssd.ops.triton.rows import (
    NONE,
    STANDARDIZE,
    STANDARDIZE_UNBIASED,
    affine_side,
    load_block,
    merged_moments,
    merged_softmax,
    moments,
    place_elements,
    softmax_statistics,
)

ROOT_LEVEL, ROOT_ROW = tl.constexpr(1), tl.constexpr(2)
ROOT_FLOOR: tl.constexpr = tl.constexpr(1e-12)


@triton.jit
def sweep_statistics(
    student, teacher, base, lives, start, stop, length, inner, segment_stride, scale,
    MEMBER: tl.constexpr, NORMALIZE: tl.constexpr, STRIDED: tl.constexpr,
    SEGMENTED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of both maps over elements start to stop: largest logit and sum, or mean and squares."""
    zero = tl.zeros((ROWS,), tl.float32)
    CENTRE: tl.constexpr = (NORMALIZE == STANDARDIZE) | (NORMALIZE == STANDARDIZE_UNBIASED)
    stat_a, stat_b, sum_a, sum_b, number_a, number_b = zero, zero, zero, zero, zero, zero
    if MEMBER != AFFINE:
        stat_a, stat_b = zero - INFINITY, zero - INFINITY
    for first in range(start, stop, BLOCK):
        offset, inside = place_elements(
            first, stop, length, inner, segment_stride, STRIDED, SEGMENTED, BLOCK
        )
        exists = lives[:, None] & inside[None, :]
        if MEMBER != AFFINE:
            a = load_block(student, base, offset, exists, -INFINITY)
            b = load_block(teacher, base, offset, exists, -INFINITY)
            stat_a, sum_a = softmax_statistics(a, stat_a, sum_a, scale)
            stat_b, sum_b = softmax_statistics(b, stat_b, sum_b, scale)
        else:
            a = load_block(student, base, offset, exists, 0.0)
            b = load_block(teacher, base, offset, exists, 0.0)
            number_a, stat_a, sum_a = moments(a, exists, number_a, stat_a, sum_a, CENTRE)
            number_b, stat_b, sum_b = moments(b, exists, number_b, stat_b, sum_b, CENTRE)
    return stat_a, sum_a, stat_b, sum_b


@triton.jit
def read_statistics(
    stats, slots, slot, rows, lives, pieces, piece_length, count, scale, MEMBER: tl.constexpr
):  # fmt: skip
    """The statistics of rows from those of their pieces."""
    zero = tl.zeros_like(slot).to(tl.float32)
    stat_a, stat_b, sum_a, sum_b, number = zero, zero, zero, zero, zero
    if MEMBER != AFFINE:
        stat_a, stat_b = zero - INFINITY, zero - INFINITY
    for piece in range(pieces):
        at = stats + slot + tl.cast(piece, tl.int64) * rows
        more_a = tl.load(at, mask=lives, other=0.0)
        more_sum_a = tl.load(at + slots, mask=lives, other=0.0)
        more_b = tl.load(at + 2 * slots, mask=lives, other=0.0)
        more_sum_b = tl.load(at + 3 * slots, mask=lives, other=0.0)
        if MEMBER != AFFINE:
            stat_a, sum_a = merged_softmax(stat_a, sum_a, more_a, more_sum_a, scale)
            stat_b, sum_b = merged_softmax(stat_b, sum_b, more_b, more_sum_b, scale)
        else:
            more = zero + tl.minimum(piece_length, count - piece * piece_length)
            _, stat_a, sum_a = merged_moments(number, stat_a, sum_a, more, more_a, more_sum_a)
            number, stat_b, sum_b = merged_moments(number, stat_b, sum_b, more, more_b, more_sum_b)
    return stat_a, sum_a, stat_b, sum_b


@triton.jit
def softmax_row(stat_a, sum_a, stat_b, sum_b, scale):
    """Shifts, offsets and delta: log2 p = (a - shift_a) scale - offset_a."""
    dead = (sum_a == 0.0) | (sum_b == 0.0)  # no finite logit on a side: counts 0
    offset_a = tl.where(dead, 0.0, tl.log2(tl.where(dead, 1.0, sum_a)))
    offset_b = tl.where(dead, 0.0, tl.log2(tl.where(dead, 1.0, sum_b)))
    delta = tl.where(dead, 0.0, (stat_a - stat_b) * scale + (offset_a - offset_b))
    shift_a, shift_b = tl.where(dead, INFINITY, stat_a), tl.where(dead, INFINITY, stat_b)
    return shift_a, shift_b, offset_a, offset_b, delta


@triton.jit
def variance_factor(count, NORMALIZE: tl.constexpr):
    """1 / count, or 1 / (count - 1)."""
    if NORMALIZE == STANDARDIZE_UNBIASED:
        return 1.0 / tl.maximum(count - 1, 1).to(tl.float32)
    return 1.0 / count.to(tl.float32)


@triton.jit
def finish_rows(
    row, lives, stat_a, sum_a, stat_b, sum_b, term_a, term_b, term_gap, term_square,
    weights, saved, all_rows, partial, count, scale, beta, eps,
    MEMBER: tl.constexpr, NORMALIZE: tl.constexpr, COSINE: tl.constexpr, ROOT: tl.constexpr,
    MEAN_ELEMENTS: tl.constexpr, HAS_WEIGHTS: tl.constexpr,
):  # fmt: skip
    """From the sums of rows: their saved planes, and what they add to their level."""
    to = saved + row
    if MEMBER != AFFINE:
        shift_a, _, offset_a, _, delta = softmax_row(stat_a, sum_a, stat_b, sum_b, scale)
        tl.store(to, shift_a + offset_a / scale, mask=lives)
        tl.store(to + all_rows, delta + term_gap * LOG2_E, mask=lives)
        divergence = term_a
        if MEMBER == JS:
            divergence = settled(0.5 * (term_a + term_b), term_gap, 0.25)
            term_a, term_b = settled(term_a, term_gap, 0.25), settled(term_b, term_gap, 0.25)
        elif MEMBER == JS_BETA:
            other = 1.0 - beta
            divergence = settled(beta * term_a + other * term_b, term_gap, beta * other)
            term_a = settled(term_a, term_gap, other * other)
            term_b = settled(term_b, term_gap, beta * beta)
        elif MEMBER == KL:
            divergence = settled(term_a, term_gap, 1.0)
            term_a = divergence
        tl.store(to + 2 * all_rows, term_a, mask=lives)
        if MEMBER != KL:
            tl.store(to + 3 * all_rows, term_b, mask=lives)
        if MEMBER == MSE:
            divergence = term_square
            tl.store(to + 4 * all_rows, divergence, mask=lives)
    else:
        factor = variance_factor(count, NORMALIZE)
        scale_a, slope_a, bend_a, squares_a = affine_side(
            stat_a, sum_a, factor, eps, NORMALIZE, COSINE
        )
        scale_b, slope_b, bend_b, squares_b = affine_side(
            stat_b, sum_b, factor, eps, NORMALIZE, COSINE
        )
        divergence = term_square
        if COSINE:
            divergence = 0.5 * term_square + (1.0 - 0.5 * (squares_a + squares_b))
        tl.store(to, divergence, mask=lives)
        if NORMALIZE != NONE or COSINE:
            tl.store(to + all_rows, stat_a, mask=lives)
            tl.store(to + 2 * all_rows, scale_a, mask=lives)
            tl.store(to + 3 * all_rows, slope_a * term_a + bend_a, mask=lives)
            tl.store(to + 4 * all_rows, stat_b, mask=lives)
            tl.store(to + 5 * all_rows, scale_b, mask=lives)
            tl.store(to + 6 * all_rows, slope_b * term_b + bend_b, mask=lives)

    share = divergence
    if MEAN_ELEMENTS:
        share = divergence / count.to(tl.float32)
    if ROOT == ROOT_ROW:
        share = tl.sqrt(share)
    weight = tl.where(lives, 1.0, 0.0)
    if HAS_WEIGHTS:
        weight = tl.load(weights, mask=lives, other=0.0)
    share = tl.where(weight == 0.0, 0.0, share * weight)  # a row left out may hold NaN
    tl.store(partial, tl.sum(share, 0))
    tl.store(partial + 1, tl.sum(weight, 0))


@triton.jit
def row_slope(divergence, count, ROOT: tl.constexpr, MEAN_ELEMENTS: tl.constexpr):
    """Of what rows contribute, by their divergence."""
    slope = tl.full(divergence.shape, 1.0, tl.float32)
    if MEAN_ELEMENTS:
        slope = slope / count.to(tl.float32)
    if ROOT == ROOT_ROW:
        scaled = divergence * slope
        flat = scaled <= ROOT_FLOOR
        slope = tl.where(flat, 0.0, 0.5 * slope / tl.sqrt(tl.where(flat, 1.0, scaled)))
    return slope

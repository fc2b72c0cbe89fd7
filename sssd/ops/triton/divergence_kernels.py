# mypy: disable-error-code="no-untyped-def"
# (what @triton.jit compiles has no Python types)
"""The kernels of the divergence operator in Triton, for one level.

A program takes ROWS rows and one piece of them, BLOCK elements at a time. `statistics_kernel` sees
the elements of a piece, `terms_kernel` sees them again with the statistics of their rows,
`rows_kernel` adds the pieces up, and `backward_kernel` writes the gradients.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sssd.ops.divergence_kernels import number
from sssd.ops.triton.members import (
    COSINE,
    INFINITY,
    KL,
    LN2,
    LOG2_E,
    divergence_of,
    masses,
    psi,
)

SOFTMAX, STANDARDIZE = (
    tl.constexpr(number("normalize", name)) for name in ("softmax", "standardize")
)
# Nothing of an argument but its type is part of what a kernel is compiled for.
SCALARS = (
    "rows", "inner", "outer_stride", "length", "segment_stride", "pieces", "parts",
    "piece_length", "all_rows",
)  # fmt: skip
POINTERS = (
    "student",
    "teacher",
    "grad_student",
    "grad_teacher",
    "stats",
    "sums",
    "saved",
    "slopes",
)
generic = triton.jit(do_not_specialize=[*SCALARS, *POINTERS])


@triton.jit
def rows_of(tile, rows, inner, outer_stride, STRIDED: tl.constexpr, ROWS: tl.constexpr):
    """Of the rows of a tile: number, offset of the first element, whether they exist."""
    if STRIDED:  # neighbours in memory are neighbouring rows
        tiles = (inner + ROWS - 1) // ROWS
        column = tile % tiles * ROWS + tl.arange(0, ROWS)
        return tile // tiles * inner + column, tile // tiles * outer_stride + column, column < inner
    row = tile * ROWS + tl.arange(0, ROWS)
    return row, row * outer_stride, row < rows


@triton.jit
def piece_of(piece, parts, piece_length, length, segment_stride):
    """Of a piece: first element and end in its segment, and the segment's offset in the row."""
    start = piece % parts * piece_length
    return start, tl.minimum(start + piece_length, length), piece // parts * segment_stride


@triton.jit
def elements_of(first, stop, base, inner, lives, BLOCK: tl.constexpr):
    """Elements first, first + 1, ... of rows: their offsets in the map, and which exist."""
    element = first + tl.arange(0, BLOCK)
    exists = lives[:, None] & (element < stop)[None, :]
    return base[:, None] + (element * inner)[None, :], exists


@triton.jit
def gathered(x, total_x, number_x, stat, total, number, scale, NORMALIZE: tl.constexpr):
    """Statistics of rows with more parts, (ROWS, parts), each of an element or of many.

    Softmax rows: largest logit, sum of 2^((x - largest) scale). Others: mean (0 where rows are not
    centred), sum of squared deviations. And the number of elements.
    """
    both = number + tl.sum(number_x, 1)
    if NORMALIZE == SOFTMAX:
        top = tl.max(x, 1)
        top = tl.where(stat > top, stat, top)
        anchor = tl.where(top == -INFINITY, 0.0, top)
        kept = total * tl.exp2((stat - anchor) * scale)
        return top, kept + tl.sum(total_x * tl.exp2((x - anchor[:, None]) * scale), 1), both
    if NORMALIZE == STANDARDIZE:
        more = tl.sum(number_x * (x - stat[:, None]), 1)
        moved = more / tl.where(both == 0.0, 1.0, both)
        total, stat = total + number * moved * moved, stat + moved
    gap = x - stat[:, None]
    return stat, total + tl.sum(total_x + number_x * gap * gap, 1), both


@triton.jit
def nothing(ROWS: tl.constexpr, NORMALIZE: tl.constexpr):
    """Statistics of no elements."""
    zero = tl.zeros((ROWS,), tl.float32)
    return zero - INFINITY if NORMALIZE == SOFTMAX else zero, zero, zero


@generic
def statistics_kernel(
    student, teacher, stats, rows: tl.int64, inner: tl.int64, outer_stride: tl.int64,
    length: tl.int64, segment_stride: tl.int64, pieces: tl.int64, parts: tl.int64,
    piece_length: tl.int64, scale,
    NORMALIZE: tl.constexpr, STRIDED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of each piece of each row: stats (5, pieces, rows), two of a side and the number."""
    program = tl.program_id(0).to(tl.int64)
    piece = program % pieces
    row, base, lives = rows_of(program // pieces, rows, inner, outer_stride, STRIDED, ROWS)
    start, stop, segment = piece_of(piece, parts, piece_length, length, segment_stride)
    stat_a, total_a, number = nothing(ROWS, NORMALIZE)
    stat_b, total_b, _ = nothing(ROWS, NORMALIZE)
    for first in range(start, stop, BLOCK):
        at, exists = elements_of(first, stop, base + segment, inner, lives, BLOCK)
        missing: tl.constexpr = -INFINITY if NORMALIZE == SOFTMAX else 0.0
        a = tl.load(student + at, mask=exists, other=missing).to(tl.float32)
        b = tl.load(teacher + at, mask=exists, other=missing).to(tl.float32)
        one = exists.to(tl.float32)
        total = one if NORMALIZE == SOFTMAX else tl.zeros_like(one)
        stat_b, total_b, _ = gathered(b, total, one, stat_b, total_b, number, scale, NORMALIZE)
        stat_a, total_a, number = gathered(a, total, one, stat_a, total_a, number, scale, NORMALIZE)
    to, plane = stats + piece * rows + row, pieces * rows
    tl.store(to, stat_a, mask=lives)
    tl.store(to + plane, total_a, mask=lives)
    tl.store(to + 2 * plane, stat_b, mask=lives)
    tl.store(to + 3 * plane, total_b, mask=lives)
    tl.store(to + 4 * plane, number, mask=lives)


@triton.jit
def statistics_of(
    stats, row, lives, rows, pieces, scale, NORMALIZE: tl.constexpr, ROWS: tl.constexpr,
    PARTS: tl.constexpr,
):  # fmt: skip
    """Statistics of rows from those of their pieces."""
    stat_a, total_a, number = nothing(ROWS, NORMALIZE)
    stat_b, total_b, _ = nothing(ROWS, NORMALIZE)
    plane = pieces * rows
    for first in range(0, pieces, PARTS):
        piece = first + tl.arange(0, PARTS)
        exists = lives[:, None] & (piece < pieces)[None, :]
        at = stats + row[:, None] + (piece * rows)[None, :]
        missing: tl.constexpr = -INFINITY if NORMALIZE == SOFTMAX else 0.0
        a = tl.load(at, mask=exists, other=missing)
        sum_a = tl.load(at + plane, mask=exists, other=0.0)
        b = tl.load(at + 2 * plane, mask=exists, other=missing)
        sum_b = tl.load(at + 3 * plane, mask=exists, other=0.0)
        more = tl.load(at + 4 * plane, mask=exists, other=0.0)
        stat_b, total_b, _ = gathered(b, sum_b, more, stat_b, total_b, number, scale, NORMALIZE)
        stat_a, total_a, number = gathered(
            a, sum_a, more, stat_a, total_a, number, scale, NORMALIZE
        )
    return stat_a, total_a, stat_b, total_b, number


@triton.jit
def softmax_row(stat_a, total_a, stat_b, total_b, scale):
    """Offsets of both sides and delta, see `masses`; 0 and equal sums give exactly 0."""
    ratio, excess = total_a / total_b, (total_a - total_b) / total_b
    log = (psi(excess, ratio) + excess) / ratio  # of 1 + excess
    return tl.log2(total_a), tl.log2(total_b), (stat_a - stat_b) * scale + log * LOG2_E


@triton.jit
def affine_row(
    total, number, eps,
    NORMALIZE: tl.constexpr, DIVERGENCE: tl.constexpr, UNBIASED: tl.constexpr,
):  # fmt: skip
    """Of y = (x - mean) scale: scale, what the gradient loses of y (slope sum + bend), |y|^2.

    The last is 1 but for rows shorter than eps, which are divided by eps, where cosine asks.
    """
    zero = tl.zeros_like(total)
    if (NORMALIZE == STANDARDIZE) & (DIVERGENCE != COSINE):
        freedom = number
        if UNBIASED:
            freedom = tl.maximum(number - 1.0, 1.0)
            deviation = tl.sqrt(total / freedom)
            slope = tl.where(deviation == 0.0, 0.0, 1.0 / (freedom * deviation))
            return 1.0 / (deviation + eps), slope, zero, zero + 1.0
        scale = 1.0 / tl.sqrt(total / freedom + eps)
        return scale, scale / freedom, zero, zero + 1.0
    norm = tl.sqrt(total)
    short = norm < eps
    scale = 1.0 / tl.where(short, eps, norm)
    bend = zero
    if DIVERGENCE == COSINE:
        bend = tl.where(short, scale, 0.0)
    return scale, tl.where(short, 0.0, scale), bend, tl.where(short, total * scale * scale, 1.0)


@generic
def terms_kernel(
    student, teacher, stats, sums, rows: tl.int64, inner: tl.int64, outer_stride: tl.int64,
    length: tl.int64, segment_stride: tl.int64, pieces: tl.int64, parts: tl.int64,
    piece_length: tl.int64, scale, eps,
    NORMALIZE: tl.constexpr, DIVERGENCE: tl.constexpr, UNBIASED: tl.constexpr,
    PLANES: tl.constexpr, STRIDED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):  # fmt: skip
    """Of each piece of each row, sums (3, pieces, rows) over what `divergence_of` gives."""
    program = tl.program_id(0).to(tl.int64)
    piece = program % pieces
    row, base, lives = rows_of(program // pieces, rows, inner, outer_stride, STRIDED, ROWS)
    start, stop, segment = piece_of(piece, parts, piece_length, length, segment_stride)
    if PLANES > 1:
        stat_a, total_a, stat_b, total_b, number = statistics_of(
            stats, row, lives, rows, pieces, scale, NORMALIZE, ROWS, PARTS
        )
    if NORMALIZE == SOFTMAX:
        offset_a, offset_b, delta = softmax_row(stat_a, total_a, stat_b, total_b, scale)
    elif PLANES > 1:
        scale_a, _, _, _ = affine_row(total_a, number, eps, NORMALIZE, DIVERGENCE, UNBIASED)
        scale_b, _, _, _ = affine_row(total_b, number, eps, NORMALIZE, DIVERGENCE, UNBIASED)
    zero = tl.zeros((ROWS,), tl.float32)
    sum_f, sum_a, sum_b = zero, zero, zero
    for first in range(start, stop, BLOCK):
        at, exists = elements_of(first, stop, base + segment, inner, lives, BLOCK)
        a = tl.load(student + at, mask=exists, other=0.0).to(tl.float32)
        b = tl.load(teacher + at, mask=exists, other=0.0).to(tl.float32)
        if NORMALIZE == SOFTMAX:
            p, q, gap, x = masses(
                a, b, stat_a[:, None], stat_b[:, None], offset_a[:, None], offset_b[:, None],
                delta[:, None], scale,
            )  # fmt: skip
        else:
            p, q = a, b
            if PLANES > 1:
                p = (a - stat_a[:, None]) * scale_a[:, None]
                q = (b - stat_b[:, None]) * scale_b[:, None]
            gap, x = p - q, p
        f, u, v = divergence_of(DIVERGENCE, p, q, gap, x)
        sum_f += tl.sum(tl.where(exists, f, 0.0), 1)
        sum_a += tl.sum(tl.where(exists, u, 0.0), 1)
        if PLANES > 4:  # else it follows from the others
            sum_b += tl.sum(tl.where(exists, v, 0.0), 1)
    to, plane = sums + piece * rows + row, pieces * rows
    tl.store(to, sum_f, mask=lives)
    tl.store(to + plane, sum_a, mask=lives)
    if PLANES > 4:
        tl.store(to + 2 * plane, sum_b, mask=lives)


@generic
def rows_kernel(
    stats, sums, saved, rows: tl.int64, pieces: tl.int64, all_rows: tl.int64, scale, eps,
    NORMALIZE: tl.constexpr, DIVERGENCE: tl.constexpr, UNBIASED: tl.constexpr,
    PLANES: tl.constexpr, ROWS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """What is saved of each row, (PLANES, all_rows), the divergence first."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    lives = row < rows
    zero = tl.zeros((ROWS,), tl.float32)
    sum_f, sum_a, sum_b = zero, zero, zero
    plane = pieces * rows
    for first in range(0, pieces, PARTS):
        piece = first + tl.arange(0, PARTS)
        exists = lives[:, None] & (piece < pieces)[None, :]
        at = sums + row[:, None] + (piece * rows)[None, :]
        sum_f += tl.sum(tl.load(at, mask=exists, other=0.0), 1)
        sum_a += tl.sum(tl.load(at + plane, mask=exists, other=0.0), 1)
        if PLANES > 4:
            sum_b += tl.sum(tl.load(at + 2 * plane, mask=exists, other=0.0), 1)
    to = saved + row
    if PLANES > 1:
        stat_a, total_a, stat_b, total_b, number = statistics_of(
            stats, row, lives, rows, pieces, scale, NORMALIZE, ROWS, PARTS
        )
    if NORMALIZE == SOFTMAX:
        offset_a, _, delta = softmax_row(stat_a, total_a, stat_b, total_b, scale)
        dead = (total_a == 0.0) | (total_b == 0.0)  # only -inf on a side: counts 0
        sum_f = tl.where(dead, 0.0, sum_f)
        if DIVERGENCE == KL:  # sum_a is sum (p - q): 0, but for the rounding of delta
            delta += sum_a * LOG2_E
        tl.store(to + all_rows, tl.where(dead, INFINITY, stat_a + offset_a / scale), mask=lives)
        tl.store(to + 2 * all_rows, delta, mask=lives)
        if PLANES > 3:
            tl.store(to + 3 * all_rows, sum_a, mask=lives)
        if PLANES > 4:
            tl.store(to + 4 * all_rows, sum_b, mask=lives)
    elif PLANES > 1:
        scale_a, slope_a, bend_a, square_a = affine_row(
            total_a, number, eps, NORMALIZE, DIVERGENCE, UNBIASED
        )
        scale_b, slope_b, bend_b, square_b = affine_row(
            total_b, number, eps, NORMALIZE, DIVERGENCE, UNBIASED
        )
        if DIVERGENCE == COSINE:
            sum_f += 1.0 - 0.5 * (square_a + square_b)
        tl.store(to + all_rows, stat_a, mask=lives)
        tl.store(to + 2 * all_rows, scale_a, mask=lives)
        tl.store(to + 3 * all_rows, slope_a * sum_a + bend_a, mask=lives)
        tl.store(to + 4 * all_rows, stat_b, mask=lives)
        tl.store(to + 5 * all_rows, scale_b, mask=lives)
        tl.store(to + 6 * all_rows, slope_b * sum_b + bend_b, mask=lives)
    tl.store(to, sum_f, mask=lives)


@generic
def backward_kernel(
    student, teacher, grad_student, grad_teacher, saved, slopes, rows: tl.int64, inner: tl.int64,
    outer_stride: tl.int64, length: tl.int64, segment_stride: tl.int64,
    pieces: tl.int64, parts: tl.int64, piece_length: tl.int64, all_rows: tl.int64, scale,
    NORMALIZE: tl.constexpr, DIVERGENCE: tl.constexpr, PLANES: tl.constexpr,
    NEED_STUDENT: tl.constexpr, NEED_TEACHER: tl.constexpr, STRIDED: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradients of both maps, or of one; `slopes` (rows,) is that of each row's divergence."""
    program = tl.program_id(0).to(tl.int64)
    row, base, lives = rows_of(program // pieces, rows, inner, outer_stride, STRIDED, ROWS)
    start, stop, segment = piece_of(program % pieces, parts, piece_length, length, segment_stride)
    planes = saved + row
    slope = tl.load(slopes + row, mask=lives, other=0.0)
    divergence = tl.load(planes, mask=lives, other=0.0)
    still = (slope == 0.0) | (divergence == INFINITY)  # no gradient, whatever the row holds
    mean_a, mean_b = divergence, divergence
    if PLANES > 1:
        mean_a = tl.load(planes + all_rows, mask=lives, other=0.0)  # softmax: log-sum-exp
    if NORMALIZE == SOFTMAX:
        still |= mean_a == INFINITY
        delta = tl.load(planes + 2 * all_rows, mask=lives, other=0.0)
        mean_b = mean_a - delta / scale
        sum_a, sum_b = tl.zeros_like(slope), divergence
        if PLANES > 3:
            sum_a = tl.load(planes + 3 * all_rows, mask=lives, other=0.0)
            sum_b = divergence - sum_a
        if PLANES > 4:
            sum_b = tl.load(planes + 4 * all_rows, mask=lives, other=0.0)
        slope *= scale * LN2
    elif PLANES > 1:
        scale_a = tl.load(planes + 2 * all_rows, mask=lives, other=0.0)[:, None]
        sum_a = tl.load(planes + 3 * all_rows, mask=lives, other=0.0)
        mean_b = tl.load(planes + 4 * all_rows, mask=lives, other=0.0)
        scale_b = tl.load(planes + 5 * all_rows, mask=lives, other=0.0)[:, None]
        sum_b = tl.load(planes + 6 * all_rows, mask=lives, other=0.0)
    still, slope = still[:, None], slope[:, None]
    for first in range(start, stop, BLOCK):
        at, exists = elements_of(first, stop, base + segment, inner, lives, BLOCK)
        a = tl.load(student + at, mask=exists, other=0.0).to(tl.float32)
        b = tl.load(teacher + at, mask=exists, other=0.0).to(tl.float32)
        if NORMALIZE == SOFTMAX:
            p, q, gap, x = masses(
                a, b, mean_a[:, None], mean_b[:, None], 0.0, 0.0, delta[:, None], scale
            )
            _, u, v = divergence_of(DIVERGENCE, p, q, gap, x)
            grad_a, grad_b = u - p * sum_a[:, None], v - q * sum_b[:, None]
        elif PLANES > 1:
            y, z = (a - mean_a[:, None]) * scale_a, (b - mean_b[:, None]) * scale_b
            _, u, v = divergence_of(DIVERGENCE, 1.0, 1.0, y - z, y)  # df/dp, df/dq
            grad_a, grad_b = u * scale_a - y * sum_a[:, None], v * scale_b - z * sum_b[:, None]
        else:
            _, grad_a, grad_b = divergence_of(DIVERGENCE, 1.0, 1.0, a - b, a)
        if NEED_STUDENT:
            grad = tl.where(still, 0.0, grad_a * slope).to(grad_student.dtype.element_ty)
            tl.store(grad_student + at, grad, mask=exists)
        if NEED_TEACHER:
            grad = tl.where(still, 0.0, grad_b * slope).to(grad_teacher.dtype.element_ty)
            tl.store(grad_teacher + at, grad, mask=exists)

# mypy: disable-error-code="no-untyped-def"
# (what @triton.jit compiles has no Python types)
"""The kernels of the divergence operator in Triton: a program takes some rows of one level."""

from __future__ import annotations

import triton
import triton.language as tl

from sssd.ops.triton.members import (
    AFFINE,
    INFINITY,
    JS,
    JS_BETA,
    KL,
    LOG2_E,
    MSE,
    pair,
    settled,
    softmax_gradient,
    softmax_term,
)
from sssd.ops.triton.rows import (
    NONE,
    STANDARDIZE,
    STANDARDIZE_UNBIASED,
    affine_side,
    load_block,
    moments,
    place_elements,
    place_rows,
    softmax_statistics,
)

ROOT_LEVEL, ROOT_ROW = tl.constexpr(1), tl.constexpr(2)
ROOT_FLOOR: tl.constexpr = tl.constexpr(1e-12)


@triton.jit
def forward_kernel(
    student, teacher, weights, saved, partials,
    outer, segments, length, inner, outer_stride, segment_stride, row0, all_rows,
    scale, beta, eps, variance_of, element_scale,
    MEMBER: tl.constexpr, NORMALIZE: tl.constexpr, COSINE: tl.constexpr, ROOT: tl.constexpr,
    HAS_WEIGHTS: tl.constexpr, STRIDED: tl.constexpr, SEGMENTED: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, base, lives = place_rows(outer, inner, outer_stride, STRIDED, ROWS)
    count = segments * length
    zero = tl.zeros((ROWS,), tl.float32)
    SOFTMAX: tl.constexpr = MEMBER != AFFINE
    CENTRE: tl.constexpr = (NORMALIZE == STANDARDIZE) | (NORMALIZE == STANDARDIZE_UNBIASED)
    stat_a, stat_b, sum_a, sum_b, number_a, number_b = zero, zero, zero, zero, zero, zero
    if SOFTMAX:
        stat_a, stat_b = zero - INFINITY, zero - INFINITY
    for start in range(0, count, BLOCK):
        offset, inside = place_elements(
            start, length, count, inner, segment_stride, STRIDED, SEGMENTED, BLOCK
        )
        exists = lives[:, None] & inside[None, :]
        if SOFTMAX:
            a = load_block(student, base, offset, exists, -INFINITY)
            b = load_block(teacher, base, offset, exists, -INFINITY)
            stat_a, sum_a = softmax_statistics(a, stat_a, sum_a, scale)
            stat_b, sum_b = softmax_statistics(b, stat_b, sum_b, scale)
        else:
            a = load_block(student, base, offset, exists, 0.0)
            b = load_block(teacher, base, offset, exists, 0.0)
            number_a, stat_a, sum_a = moments(a, exists, number_a, stat_a, sum_a, CENTRE)
            number_b, stat_b, sum_b = moments(b, exists, number_b, stat_b, sum_b, CENTRE)

    term_a, term_b, term_gap, term_square = zero, zero, zero, zero
    if SOFTMAX:
        dead = (sum_a == 0.0) | (sum_b == 0.0)  # no finite logit on a side: counts 0
        offset_a = tl.where(dead, 0.0, tl.log2(tl.where(dead, 1.0, sum_a)))
        offset_b = tl.where(dead, 0.0, tl.log2(tl.where(dead, 1.0, sum_b)))
        delta = tl.where(dead, 0.0, (stat_a - stat_b) * scale + (offset_a - offset_b))
        shift_a, shift_b = tl.where(dead, INFINITY, stat_a), tl.where(dead, INFINITY, stat_b)
    else:
        scale_a, slope_a, bend_a, squares_a = affine_side(
            stat_a, sum_a, variance_of, eps, NORMALIZE, COSINE
        )
        scale_b, slope_b, bend_b, squares_b = affine_side(
            stat_b, sum_b, variance_of, eps, NORMALIZE, COSINE
        )
    for start in range(0, count, BLOCK):
        offset, inside = place_elements(
            start, length, count, inner, segment_stride, STRIDED, SEGMENTED, BLOCK
        )
        exists = lives[:, None] & inside[None, :]
        if SOFTMAX:
            a = load_block(student, base, offset, exists, -INFINITY)
            b = load_block(teacher, base, offset, exists, -INFINITY)
            d, large, small, ratio, rest = pair(
                a, b, shift_a[:, None], shift_b[:, None], offset_a[:, None], offset_b[:, None],
                delta[:, None], scale,
            )  # fmt: skip
            x, y, gap, square = softmax_term(MEMBER, d, large, small, ratio, rest, beta)
        else:
            a = load_block(student, base, offset, exists, stat_a[:, None])
            b = load_block(teacher, base, offset, exists, stat_b[:, None])
            y_a, y_b = (
                (a - stat_a[:, None]) * scale_a[:, None],
                (b - stat_b[:, None]) * scale_b[:, None],
            )
            gap = y_a - y_b
            x, y, square = y_a * gap, -y_b * gap, gap * gap
        term_a += tl.sum(x, 1)
        term_b += tl.sum(y, 1)
        term_gap += tl.sum(gap, 1)
        term_square += tl.sum(square, 1)

    to = saved + row0 + row
    if SOFTMAX:
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

    share = divergence * element_scale
    if ROOT == ROOT_ROW:
        share = tl.sqrt(share)
    weight = tl.where(lives, 1.0, 0.0)
    if HAS_WEIGHTS:
        weight = tl.load(weights + row, mask=lives, other=0.0)
    share = tl.where(weight == 0.0, 0.0, share * weight)  # a row left out may hold NaN
    tl.store(partials + 2 * tl.program_id(0), tl.sum(share, 0))
    tl.store(partials + 2 * tl.program_id(0) + 1, tl.sum(weight, 0))


@triton.jit
def finish_kernel(
    partials, value, factor, programs, ROOT: tl.constexpr, MEAN: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Adds the partial sums of a level, always in the same order; one program."""
    share, weight = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for start in range(0, programs, BLOCK):
        at = start + tl.arange(0, BLOCK)
        share += tl.load(partials + 2 * at, mask=at < programs, other=0.0)
        weight += tl.load(partials + 2 * at + 1, mask=at < programs, other=0.0)
    result, weights = tl.sum(share, 0), tl.sum(weight, 0)
    slope = 1.0
    if MEAN:
        slope = tl.where(weights == 0.0, 0.0, 1.0 / tl.where(weights == 0.0, 1.0, weights))
        result = tl.where(weights == 0.0, 0.0, result * slope)
    if ROOT == ROOT_LEVEL:
        root = tl.sqrt(result)
        safe = tl.where(result <= ROOT_FLOOR, 1.0, root)
        slope = tl.where(result <= ROOT_FLOOR, 0.0, slope * 0.5 / safe)
        result = root
    tl.store(value, result)
    tl.store(factor, slope)


@triton.jit
def backward_kernel(
    student, teacher, grad_student, grad_teacher, weights, saved, factor, grad_value,
    outer, segments, length, inner, outer_stride, segment_stride, row0, all_rows,
    scale, beta, gradient_scale, element_scale,
    MEMBER: tl.constexpr, NORMALIZED: tl.constexpr, ROOT: tl.constexpr,
    HAS_WEIGHTS: tl.constexpr, NEED_STUDENT: tl.constexpr, NEED_TEACHER: tl.constexpr,
    STRIDED: tl.constexpr, SEGMENTED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, base, lives = place_rows(outer, inner, outer_stride, STRIDED, ROWS)
    offset, inside = place_elements(
        tl.program_id(1) * BLOCK, length, segments * length, inner, segment_stride, STRIDED,
        SEGMENTED, BLOCK,
    )  # fmt: skip
    exists = lives[:, None] & inside[None, :]
    a = load_block(student, base, offset, exists, 0.0)
    b = load_block(teacher, base, offset, exists, 0.0)
    planes = saved + row0 + row
    first = tl.load(planes, mask=lives, other=0.0)
    if MEMBER != AFFINE:
        delta = tl.load(planes + all_rows, mask=lives, other=0.0)
        sum_a = tl.load(planes + 2 * all_rows, mask=lives, other=0.0)
        sum_b = tl.zeros_like(sum_a)
        if MEMBER != KL:
            sum_b = tl.load(planes + 3 * all_rows, mask=lives, other=0.0)
        divergence = sum_a
        if MEMBER == JS:
            divergence = 0.5 * (sum_a + sum_b)
        elif MEMBER == JS_BETA:
            divergence = beta * sum_a + (1.0 - beta) * sum_b
        elif MEMBER == MSE:
            divergence = tl.load(planes + 4 * all_rows, mask=lives, other=0.0)
        d, large, small, ratio, rest = pair(
            a, b, first[:, None], (first - delta / scale)[:, None], 0.0, 0.0, delta[:, None], scale
        )
        grad_a, grad_b = softmax_gradient(
            MEMBER, d, large, small, ratio, rest, sum_a[:, None], sum_b[:, None], beta
        )
    elif NORMALIZED:
        divergence = first
        mean_a = tl.load(planes + all_rows, mask=lives, other=0.0)[:, None]
        scale_a = tl.load(planes + 2 * all_rows, mask=lives, other=0.0)[:, None]
        bend_a = tl.load(planes + 3 * all_rows, mask=lives, other=0.0)[:, None]
        mean_b = tl.load(planes + 4 * all_rows, mask=lives, other=0.0)[:, None]
        scale_b = tl.load(planes + 5 * all_rows, mask=lives, other=0.0)[:, None]
        bend_b = tl.load(planes + 6 * all_rows, mask=lives, other=0.0)[:, None]
        y_a, y_b = (a - mean_a) * scale_a, (b - mean_b) * scale_b
        grad_a = (y_a - y_b) * scale_a - y_a * bend_a
        grad_b = (y_b - y_a) * scale_b - y_b * bend_b
    else:
        divergence = first
        grad_a, grad_b = a - b, b - a

    slope = tl.zeros_like(divergence) + element_scale
    if ROOT == ROOT_ROW:
        scaled = divergence * element_scale
        flat = scaled <= ROOT_FLOOR
        slope = tl.where(flat, 0.0, 0.5 * element_scale / tl.sqrt(tl.where(flat, 1.0, scaled)))
    slope *= tl.load(factor) * tl.load(grad_value) * gradient_scale
    if HAS_WEIGHTS:
        weight = tl.load(weights + row, mask=lives, other=0.0)
        slope = tl.where(weight == 0.0, 0.0, slope * weight)
    still = (slope == 0.0)[:, None]  # no gradient, whatever the row holds
    at = base[:, None] + offset[None, :]
    if NEED_STUDENT:
        x = tl.where(still, 0.0, grad_a * slope[:, None])
        tl.store(grad_student + at, x.to(grad_student.dtype.element_ty), mask=exists)
    if NEED_TEACHER:
        x = tl.where(still, 0.0, grad_b * slope[:, None])
        tl.store(grad_teacher + at, x.to(grad_teacher.dtype.element_ty), mask=exists)

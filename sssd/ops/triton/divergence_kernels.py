# mypy: disable-error-code="no-untyped-def"
# (what @triton.jit compiles has no Python types)
"""The kernels of the divergence operator in Triton: a program takes some rows of one level."""

from __future__ import annotations

import triton
import triton.language as tl

from sssd.ops.triton.divergence_rows import (
    ROOT_FLOOR,
    ROOT_LEVEL,
    finish_rows,
    read_statistics,
    row_slope,
    softmax_row,
    sweep_statistics,
    variance_factor,
)
from sssd.ops.triton.members import (
    AFFINE,
    INFINITY,
    JS,
    JS_BETA,
    KL,
    MSE,
    pair,
    softmax_gradient,
    softmax_term,
)
from sssd.ops.triton.rows import (
    affine_side,
    find_level,
    find_map,
    load_block,
    place_elements,
    place_rows,
)

# Sizes are no part of what a kernel is compiled for: images of a new size do not compile again.
NOT_SPECIALIZED = ("levels", "all_rows", "slots")


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def statistics_kernel(
    students, teachers, stats, levels, slots, scale,
    MEMBER: tl.constexpr, NORMALIZE: tl.constexpr, STRIDED: tl.constexpr,
    SEGMENTED: tl.constexpr, SPLIT: tl.constexpr, ALIGNED: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """What a piece of each row says of it, (4, slots)."""
    (
        program, _, outer, segments, length, inner, outer_stride, segment_stride, _, pieces,
        piece_length, slot0,
    ) = find_level(levels, tl.program_id(0), ALIGNED)  # fmt: skip
    student = find_map(students, levels, tl.program_id(0), ALIGNED)
    teacher = find_map(teachers, levels, tl.program_id(0), ALIGNED)
    piece = program % pieces
    row, base, lives = place_rows(program // pieces, outer, inner, outer_stride, STRIDED, ROWS)
    start = piece * piece_length
    stat_a, sum_a, stat_b, sum_b = sweep_statistics(
        student, teacher, base, lives, start, tl.minimum(start + piece_length, segments * length),
        length, inner, segment_stride, scale, MEMBER, NORMALIZE, STRIDED, SEGMENTED, ROWS, BLOCK,
    )  # fmt: skip
    to = stats + slot0 + piece.to(tl.int64) * outer * inner + row
    tl.store(to, stat_a, mask=lives)
    tl.store(to + slots, sum_a, mask=lives)
    tl.store(to + 2 * slots, stat_b, mask=lives)
    tl.store(to + 3 * slots, sum_b, mask=lives)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def forward_kernel(
    students, teachers, weights, saved, partials, stats, sums, levels, all_rows, slots,
    scale, beta, eps,
    MEMBER: tl.constexpr, NORMALIZE: tl.constexpr, COSINE: tl.constexpr, ROOT: tl.constexpr,
    MEAN_ELEMENTS: tl.constexpr, HAS_WEIGHTS: tl.constexpr, STRIDED: tl.constexpr,
    SEGMENTED: tl.constexpr, SPLIT: tl.constexpr, ALIGNED: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    (
        program, partial0, outer, segments, length, inner, outer_stride, segment_stride, row0,
        pieces, piece_length, slot0,
    ) = find_level(levels, tl.program_id(0), ALIGNED)  # fmt: skip
    student = find_map(students, levels, tl.program_id(0), ALIGNED)
    teacher = find_map(teachers, levels, tl.program_id(0), ALIGNED)
    tile, piece = program, 0
    if SPLIT:
        tile, piece = program // pieces, program % pieces
    row, base, lives = place_rows(tile, outer, inner, outer_stride, STRIDED, ROWS)
    count = segments * length
    start, stop = 0, count
    if SPLIT:
        start = piece * piece_length
        stop = tl.minimum(start + piece_length, count)
        stat_a, sum_a, stat_b, sum_b = read_statistics(
            stats, slots, slot0 + row, outer * inner, lives, pieces, piece_length, count, scale,
            MEMBER,
        )  # fmt: skip
    else:
        stat_a, sum_a, stat_b, sum_b = sweep_statistics(
            student, teacher, base, lives, start, stop, length, inner, segment_stride, scale,
            MEMBER, NORMALIZE, STRIDED, SEGMENTED, ROWS, BLOCK,
        )  # fmt: skip

    zero = tl.zeros((ROWS,), tl.float32)
    term_a, term_b, term_gap, term_square = zero, zero, zero, zero
    if MEMBER != AFFINE:
        shift_a, shift_b, offset_a, offset_b, delta = softmax_row(
            stat_a, sum_a, stat_b, sum_b, scale
        )
    else:
        factor = variance_factor(count, NORMALIZE)
        scale_a, _, _, _ = affine_side(stat_a, sum_a, factor, eps, NORMALIZE, COSINE)
        scale_b, _, _, _ = affine_side(stat_b, sum_b, factor, eps, NORMALIZE, COSINE)
    for first in range(start, stop, BLOCK):
        offset, inside = place_elements(
            first, stop, length, inner, segment_stride, STRIDED, SEGMENTED, BLOCK
        )
        exists = lives[:, None] & inside[None, :]
        if MEMBER != AFFINE:
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

    if SPLIT:
        to = sums + slot0 + tl.cast(piece, tl.int64) * outer * inner + row
        tl.store(to, term_a, mask=lives)
        tl.store(to + slots, term_b, mask=lives)
        tl.store(to + 2 * slots, term_gap, mask=lives)
        tl.store(to + 3 * slots, term_square, mask=lives)
    else:
        row_weights = saved
        if HAS_WEIGHTS:
            row_weights = find_map(weights, levels, tl.program_id(0), False)
        finish_rows(
            row, lives, stat_a, sum_a, stat_b, sum_b, term_a, term_b, term_gap, term_square,
            row_weights + row, saved + row0, all_rows, partials + 2 * (partial0 + tile), count,
            scale, beta, eps, MEMBER, NORMALIZE, COSINE, ROOT, MEAN_ELEMENTS, HAS_WEIGHTS,
        )  # fmt: skip


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def rows_kernel(
    weights, saved, partials, stats, sums, levels, all_rows, slots, scale, beta, eps,
    MEMBER: tl.constexpr, NORMALIZE: tl.constexpr, COSINE: tl.constexpr, ROOT: tl.constexpr,
    MEAN_ELEMENTS: tl.constexpr, HAS_WEIGHTS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Finishes rows whose pieces were worked on apart."""
    tile, partial0, outer, segments, length, inner, _, _, row0, pieces, piece_length, slot0 = (
        find_level(levels, tl.program_id(0), False)
    )
    row = tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    rows, count = outer * inner, segments * length
    lives = row < rows
    stat_a, sum_a, stat_b, sum_b = read_statistics(
        stats, slots, slot0 + row, rows, lives, pieces, piece_length, count, scale, MEMBER
    )
    zero = tl.zeros((ROWS,), tl.float32)
    term_a, term_b, term_gap, term_square = zero, zero, zero, zero
    for piece in range(pieces):
        at = sums + slot0 + row + tl.cast(piece, tl.int64) * rows
        term_a += tl.load(at, mask=lives, other=0.0)
        term_b += tl.load(at + slots, mask=lives, other=0.0)
        term_gap += tl.load(at + 2 * slots, mask=lives, other=0.0)
        term_square += tl.load(at + 3 * slots, mask=lives, other=0.0)
    row_weights = saved
    if HAS_WEIGHTS:
        row_weights = find_map(weights, levels, tl.program_id(0), False)
    finish_rows(
        row, lives, stat_a, sum_a, stat_b, sum_b, term_a, term_b, term_gap, term_square,
        row_weights + row, saved + row0, all_rows, partials + 2 * (partial0 + tile), count,
        scale, beta, eps, MEMBER, NORMALIZE, COSINE, ROOT, MEAN_ELEMENTS, HAS_WEIGHTS,
    )  # fmt: skip


@triton.jit(do_not_specialize=["spans"])
def finish_kernel(
    partials, values, factors, spans, ROOT: tl.constexpr, MEAN: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Adds the partial sums of a level, always in the same order; a program a level."""
    level = tl.program_id(0)
    first, count = spans[0]
    for i in tl.static_range(1, len(spans)):
        first = tl.where(level == i, spans[i][0], first)
        count = tl.where(level == i, spans[i][1], count)
    share, weight = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        share += tl.load(partials + 2 * (first + at), mask=at < count, other=0.0)
        weight += tl.load(partials + 2 * (first + at) + 1, mask=at < count, other=0.0)
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
    tl.store(values + level, result)
    tl.store(factors + level, slope)


@triton.jit(do_not_specialize=(*NOT_SPECIALIZED[:2], "numbers"))
def backward_kernel(
    students, teachers, grad_students, grad_teachers, weights, saved, factors, grad_values, levels,
    numbers, all_rows, scale, beta, gradient_scale,
    MEMBER: tl.constexpr, NORMALIZED: tl.constexpr, ROOT: tl.constexpr,
    MEAN_ELEMENTS: tl.constexpr, HAS_WEIGHTS: tl.constexpr, NEED_STUDENT: tl.constexpr,
    NEED_TEACHER: tl.constexpr, STRIDED: tl.constexpr, SEGMENTED: tl.constexpr,
    SPLIT: tl.constexpr, ALIGNED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    (
        program, _, outer, segments, length, inner, outer_stride, segment_stride, row0, pieces,
        _, _,
    ) = find_level(levels, tl.program_id(0), ALIGNED)  # fmt: skip
    student = find_map(students, levels, tl.program_id(0), ALIGNED)
    teacher = find_map(teachers, levels, tl.program_id(0), ALIGNED)
    number = find_map(numbers, levels, tl.program_id(0), False)  # of the level in the call
    row, base, lives = place_rows(program // pieces, outer, inner, outer_stride, STRIDED, ROWS)
    count = segments * length
    offset, inside = place_elements(
        program % pieces * BLOCK, count, length, inner, segment_stride, STRIDED, SEGMENTED, BLOCK
    )
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

    slope = row_slope(divergence, count, ROOT, MEAN_ELEMENTS)
    slope *= tl.load(factors + number) * tl.load(grad_values + number) * gradient_scale
    if HAS_WEIGHTS:
        row_weights = find_map(weights, levels, tl.program_id(0), False)
        weight = tl.load(row_weights + row, mask=lives, other=0.0)
        slope = tl.where(weight == 0.0, 0.0, slope * weight)
    still = (slope == 0.0)[:, None]  # no gradient, whatever the row holds
    at = base[:, None] + offset[None, :]
    if NEED_STUDENT:
        grad_student = find_map(grad_students, levels, tl.program_id(0), ALIGNED)
        x = tl.where(still, 0.0, grad_a * slope[:, None])
        tl.store(grad_student + at, x.to(grad_student.dtype.element_ty), mask=exists)
    if NEED_TEACHER:
        grad_teacher = find_map(grad_teachers, levels, tl.program_id(0), ALIGNED)
        x = tl.where(still, 0.0, grad_b * slope[:, None])
        tl.store(grad_teacher + at, x.to(grad_teacher.dtype.element_ty), mask=exists)

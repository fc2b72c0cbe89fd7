# mypy: disable-error-code="no-untyped-def"
# (what @triton.jit compiles has no Python types)
"""The divergence operator in Triton, for one level; kernels/divergence/README.md derives it.

A program takes ROWS rows and one piece of them, BLOCK elements at a time. `statistics_kernel` and
`terms_kernel` sum up the elements of a piece, `backward_kernel` writes the gradients.

A divergence of two elements p (student) and q (teacher) of normalised rows, with gap = p - q and
x = log(p / q), is a function f(p, q) that gives f >= 0, p df/dp and q df/dq, up to what adds the
same to all rows: a multiple of gap, whose sum over a softmax row is 0. To add one, write its
function, name it in `divergence_of`, and in the settings of sssd/ops/divergence_kernels.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sssd.ops.divergence_kernels import number
from sssd.ops.triton import generic

JS, KL, MSE = (tl.constexpr(number("divergence", name)) for name in ("js", "kl", "mse"))
SOFTMAX = tl.constexpr(number("normalize", "softmax"))
STANDARDIZE = tl.constexpr(number("normalize", "standardize"))
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
INFINITY: tl.constexpr = tl.constexpr(float("inf"))
TINY: tl.constexpr = tl.constexpr(1e-37)  # for logarithms of what is 0


# ---- the divergences -----------------------------------------------------------------------------


@triton.jit
def psi(x, one_plus):
    """(1 + x) log(1 + x) - x for x >= -1, given 1 + x with its own relative accuracy."""
    series = 1 / 12 + x * (-1 / 20 + x * (1 / 30 + x * (-1 / 42 + x * (1 / 56))))
    near = x * x * (1 / 2 + x * (-1 / 6 + x * series))
    far = one_plus * (tl.log2(tl.where(one_plus < TINY, TINY, one_plus)) * LN2) - x
    return tl.where(tl.abs(x) < 0.15, near, far)


@triton.jit
def js(p, q, gap):
    """Jensen-Shannon: (KL(p, m) + KL(q, m)) / 2, where p = m (1 + x) and q = m (1 - x)."""
    m = 0.5 * (p + q)
    x = tl.where(m == 0.0, 0.0, 0.5 * gap / m)
    up = 0.5 * m * psi(x, tl.where(p == 0.0, 0.0, p / m))
    down = 0.5 * m * psi(-x, tl.where(q == 0.0, 0.0, q / m))
    cross = 0.25 * gap
    return up + down, tl.where(p == 0.0, 0.0, up + cross), tl.where(q == 0.0, 0.0, down - cross)


@triton.jit
def kl(q, gap, x):
    """Kullback-Leibler, KL(q, p): q (e^x - 1 - x); infinite where q has mass and p cannot."""
    series = 1 / 24 + x * (1 / 120 + x * (1 / 720 + x * (1 / 5040)))
    near = q * x * x * (1 / 2 + x * (1 / 6 + x * series))
    scaled = tl.where(q == 0.0, 0.0, q * x)
    term = tl.where(tl.abs(x) < 0.36, near, gap - scaled)
    return tl.where(x == -INFINITY, INFINITY, term), gap, -scaled


@triton.jit
def mse(p, q, gap):
    """Squared difference."""
    return gap * gap, 2.0 * p * gap, -2.0 * q * gap


@triton.jit
def cosine(p, q, gap):
    """1 - p.q of rows of unit length, as half their squared difference."""
    return 0.5 * gap * gap, p * gap, -q * gap


@triton.jit
def divergence_of(DIVERGENCE: tl.constexpr, p, q, gap, x):
    """The divergence by its number."""
    if DIVERGENCE == JS:
        return js(p, q, gap)
    elif DIVERGENCE == KL:
        return kl(q, gap, x)
    elif DIVERGENCE == MSE:
        return mse(p, q, gap)
    else:
        return cosine(p, q, gap)


# ---- rows and pieces -----------------------------------------------------------------------------


@triton.jit
def place_of(
    rows, inner, outer_stride, length, segment_stride, pieces, parts, piece_length,
    STRIDED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Of this program: its rows, whether they exist, where they start, and its piece of them.

    The piece has elements start, start + 1, ... before stop.
    """
    program = tl.program_id(0).to(tl.int64)
    tile, piece = program // pieces, program % pieces
    if STRIDED:  # neighbours in memory are neighbouring rows
        tiles = (inner + ROWS - 1) // ROWS
        column = tile % tiles * ROWS + tl.arange(0, ROWS)
        row, lives = tile // tiles * inner + column, column < inner
        base = tile // tiles * outer_stride + column
    else:
        row = tile * ROWS + tl.arange(0, ROWS)
        base, lives = row * outer_stride, row < rows
    start = piece % parts * piece_length
    stop = tl.minimum(start + piece_length, length)
    return row, lives, base + piece // parts * segment_stride, piece, start, stop


@triton.jit
def elements_of(student, teacher, first, stop, base, inner, lives, BLOCK: tl.constexpr):
    """Elements first, first + 1, ... of rows: where they lie, which exist, and both values."""
    element = first + tl.arange(0, BLOCK)
    exists = lives[:, None] & (element < stop)[None, :]
    at = base[:, None] + (element * inner)[None, :]
    a = tl.load(student + at, mask=exists, other=0.0).to(tl.float32)
    b = tl.load(teacher + at, mask=exists, other=0.0).to(tl.float32)
    return at, exists, a, b


@triton.jit
def with_more(x, exists, stat, total, before, more, scale, NORMALIZE: tl.constexpr):
    """Statistics of rows, of `before` elements until now, with `more` of them.

    Softmax rows: largest logit, sum of 2^((x - largest) scale). Others: mean (0 where rows are not
    centred), sum of squared deviations.
    """
    if NORMALIZE == SOFTMAX:
        x = tl.where(exists, x, -INFINITY)
        top = tl.max(x, 1)
        top = tl.where(stat > top, stat, top)
        anchor = tl.where(top == -INFINITY, 0.0, top)
        kept = total * tl.exp2((stat - anchor) * scale)
        return top, kept + tl.sum(tl.exp2((x - anchor[:, None]) * scale), 1)
    if NORMALIZE == STANDARDIZE:
        moved = tl.sum(tl.where(exists, x - stat[:, None], 0.0), 1) / (before + more)
        total, stat = total + before * moved * moved, stat + moved
    gap = tl.where(exists, x - stat[:, None], 0.0)
    return stat, total + tl.sum(gap * gap, 1)


@generic
def statistics_kernel(
    student, teacher, stats, rows: tl.int64, inner: tl.int64, outer_stride: tl.int64,
    length: tl.int64, segment_stride: tl.int64, pieces: tl.int64, parts: tl.int64,
    piece_length: tl.int64, scale,
    NORMALIZE: tl.constexpr, STRIDED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of each piece of each row: stats (4, pieces, rows), two of the student, then the teacher."""
    row, lives, base, piece, start, stop = place_of(
        rows, inner, outer_stride, length, segment_stride, pieces, parts, piece_length, STRIDED,
        ROWS,
    )  # fmt: skip
    total_a = tl.zeros((ROWS,), tl.float32)
    stat_a = total_a - INFINITY if NORMALIZE == SOFTMAX else total_a
    stat_b, total_b = stat_a, total_a
    for first in range(start, stop, BLOCK):
        _, exists, a, b = elements_of(student, teacher, first, stop, base, inner, lives, BLOCK)
        before = (first - start).to(tl.float32)
        more = tl.minimum(stop - first, BLOCK).to(tl.float32)
        stat_a, total_a = with_more(a, exists, stat_a, total_a, before, more, scale, NORMALIZE)
        stat_b, total_b = with_more(b, exists, stat_b, total_b, before, more, scale, NORMALIZE)
    to, plane = stats + piece * rows + row, pieces * rows
    tl.store(to, stat_a, mask=lives)
    tl.store(to + plane, total_a, mask=lives)
    tl.store(to + 2 * plane, stat_b, mask=lives)
    tl.store(to + 3 * plane, total_b, mask=lives)


@triton.jit
def saved_of(saved, plane, all_rows, row, lives):
    """One of the saved numbers of rows."""
    return tl.load(saved + plane * all_rows + row, mask=lives, other=0.0)[:, None]


@triton.jit
def normalized(
    a, b, saved, all_rows, row, lives, scale, NORMALIZE: tl.constexpr, DIVERGENCE: tl.constexpr
):
    """p, q, p - q and log(p / q) of softmax rows; of others the normalised elements and their gap.

    Softmax rows: log2 p = (a - shift_a) scale - inner_a, and `delta` is what log2(p / q) has less
    than (a - b) scale; MSE, which feels its rounding, has the rest of it too. The logits are
    subtracted first, and the gap follows from their difference: each is accurate however close p
    and q are. Others: (a - shift_a) inner_a.
    """
    from_a = a - saved_of(saved, 1, all_rows, row, lives)
    from_b = b - saved_of(saved, 2, all_rows, row, lives)
    inner_a = saved_of(saved, 3, all_rows, row, lives)
    inner_b = saved_of(saved, 4, all_rows, row, lives)
    if NORMALIZE != SOFTMAX:
        y, z = from_a * inner_a, from_b * inner_b
        return y, z, y - z, y
    log_p, log_q = from_a * scale - inner_a, from_b * scale - inner_b
    large = tl.exp2(tl.where(log_p > log_q, log_p, log_q))
    d = (a - b) * scale - saved_of(saved, 5, all_rows, row, lives)
    if DIVERGENCE == MSE:  # the others subtract what has the same rounding in it
        d -= saved_of(saved, 8, all_rows, row, lives)
    d = tl.where((large == 0.0) & (d != d), 0.0, d)  # both are -inf
    x, t = d * LN2, tl.abs(d) * LN2
    ratio = tl.where(t > 87.0, 0.0, tl.exp2(-tl.abs(d)))  # of the smaller mass to the larger
    series = 1 - t / 4 * (1 - t / 5 * (1 - t / 6 * (1 - t / 7 * (1 - t / 8))))
    near = t * (1 - t / 2 * (1 - t / 3 * series))
    rest = large * tl.where(t < 0.35, near, 1.0 - ratio)
    above, small = d > 0.0, large * ratio
    p, q = tl.where(above, large, small), tl.where(above, small, large)
    return p, q, tl.where(above, rest, -rest), x


@generic
def terms_kernel(
    student, teacher, saved, sums, rows: tl.int64, inner: tl.int64, outer_stride: tl.int64,
    length: tl.int64, segment_stride: tl.int64, pieces: tl.int64, parts: tl.int64,
    piece_length: tl.int64, all_rows: tl.int64, scale,
    NORMALIZE: tl.constexpr, DIVERGENCE: tl.constexpr, STRIDED: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of each piece of each row, sums (4, pieces, rows): what `divergence_of` gives; MSE: p - q."""
    row, lives, base, piece, start, stop = place_of(
        rows, inner, outer_stride, length, segment_stride, pieces, parts, piece_length, STRIDED,
        ROWS,
    )  # fmt: skip
    zero = tl.zeros((ROWS,), tl.float32)
    sum_f, sum_a, sum_b, sum_gap = zero, zero, zero, zero
    for first in range(start, stop, BLOCK):
        _, exists, a, b = elements_of(student, teacher, first, stop, base, inner, lives, BLOCK)
        p, q, gap, x = normalized(a, b, saved, all_rows, row, lives, scale, NORMALIZE, DIVERGENCE)
        f, u, v = divergence_of(DIVERGENCE, p, q, gap, x)
        sum_f += tl.sum(tl.where(exists, f, 0.0), 1)
        sum_a += tl.sum(tl.where(exists, u, 0.0), 1)
        sum_b += tl.sum(tl.where(exists, v, 0.0), 1)
        if DIVERGENCE == MSE:
            sum_gap += tl.sum(tl.where(exists, gap, 0.0), 1)
    to, plane = sums + piece * rows + row, pieces * rows
    tl.store(to, sum_f, mask=lives)
    tl.store(to + plane, sum_a, mask=lives)
    tl.store(to + 2 * plane, sum_b, mask=lives)
    tl.store(to + 3 * plane, sum_gap, mask=lives)


@generic
def backward_kernel(
    student, teacher, grad_student, grad_teacher, saved, slopes, rows: tl.int64, inner: tl.int64,
    outer_stride: tl.int64, length: tl.int64, segment_stride: tl.int64, pieces: tl.int64,
    parts: tl.int64, piece_length: tl.int64, all_rows: tl.int64, scale,
    NORMALIZE: tl.constexpr, DIVERGENCE: tl.constexpr, NEED_STUDENT: tl.constexpr,
    NEED_TEACHER: tl.constexpr, STRIDED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradients of both maps, or of one; `slopes` (rows,) is that of each row's divergence."""
    row, lives, base, _part, start, stop = place_of(
        rows, inner, outer_stride, length, segment_stride, pieces, parts, piece_length, STRIDED,
        ROWS,
    )  # fmt: skip
    slope = tl.load(slopes + row, mask=lives, other=0.0)[:, None]
    sum_a = saved_of(saved, 6, all_rows, row, lives)
    sum_b = saved_of(saved, 7, all_rows, row, lives)
    for first in range(start, stop, BLOCK):
        at, exists, a, b = elements_of(student, teacher, first, stop, base, inner, lives, BLOCK)
        p, q, gap, x = normalized(a, b, saved, all_rows, row, lives, scale, NORMALIZE, DIVERGENCE)
        if NORMALIZE == SOFTMAX:
            _value, u, v = divergence_of(DIVERGENCE, p, q, gap, x)
            each_a, each_b = slope * (scale * LN2), slope * (scale * LN2)
        else:
            _value, u, v = divergence_of(DIVERGENCE, 1.0, 1.0, gap, x)  # df/dp, df/dq
            each_a = slope * saved_of(saved, 3, all_rows, row, lives)
            each_b = slope * saved_of(saved, 4, all_rows, row, lives)
        still = slope == 0.0  # no gradient, whatever the row holds
        if NEED_STUDENT:
            grad = tl.where(still, 0.0, each_a * (u - p * sum_a))
            tl.store(grad_student + at, grad.to(grad_student.dtype.element_ty), mask=exists)
        if NEED_TEACHER:
            grad = tl.where(still, 0.0, each_b * (v - q * sum_b))
            tl.store(grad_teacher + at, grad.to(grad_teacher.dtype.element_ty), mask=exists)

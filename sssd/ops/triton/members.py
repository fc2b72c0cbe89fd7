# mypy: disable-error-code="no-untyped-def"
# (what @triton.jit compiles has no Python types)
"""The divergences in Triton, one function each; kernels/divergence/README.md derives them.

A divergence of two elements p (student) and q (teacher) of normalised rows, with gap = p - q and
x = log(p / q), is a function f(p, q) that gives f >= 0, p df/dp and q df/dq, up to what adds the
same to all rows: a multiple of gap, whose sum over a softmax row is 0. To add one, write its
function, name it in `divergence_of`, and in the settings of sssd/ops/divergence_kernels.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sssd.ops.divergence_kernels import number

JS = tl.constexpr(number("divergence", "js"))
KL = tl.constexpr(number("divergence", "kl"))
MSE = tl.constexpr(number("divergence", "mse"))
COSINE = tl.constexpr(number("divergence", "cosine"))
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
INFINITY: tl.constexpr = tl.constexpr(float("inf"))
TINY: tl.constexpr = tl.constexpr(1e-37)  # for logarithms of what is 0


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


@triton.jit
def masses(a, b, shift_a, shift_b, offset_a, offset_b, delta, scale):
    """p, q, p - q and log(p / q) of softmax rows, log2 p = (a - shift_a) scale - offset_a.

    `delta` is what log2(p / q) has less than (a - b) scale. The logits are subtracted first, and
    the gap follows from their difference: each is accurate however close p and q are.
    """
    log_p = (a - shift_a) * scale - offset_a
    log_q = (b - shift_b) * scale - offset_b
    large = tl.exp2(tl.where(log_p > log_q, log_p, log_q))
    d = (a - b) * scale - delta
    d = tl.where((large == 0.0) & (d != d), 0.0, d)  # both are -inf
    x, t = d * LN2, tl.abs(d) * LN2
    ratio = tl.where(t > 87.0, 0.0, tl.exp2(-tl.abs(d)))  # of the smaller mass to the larger
    series = 1 - t / 4 * (1 - t / 5 * (1 - t / 6 * (1 - t / 7 * (1 - t / 8))))
    near = t * (1 - t / 2 * (1 - t / 3 * series))
    rest = large * tl.where(t < 0.35, near, 1.0 - ratio)
    above, small = d > 0.0, large * ratio
    p, q = tl.where(above, large, small), tl.where(above, small, large)
    return p, q, tl.where(above, rest, -rest), x

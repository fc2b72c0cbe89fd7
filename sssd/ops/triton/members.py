# mypy: disable-error-code="no-untyped-def"
# (what @triton.jit compiles has no Python types)
"""The members of the divergence family in Triton; kernels/divergence/README.md derives them.

Arguments of one name mean the same throughout: logits or elements `a` (student) and `b` (teacher),
`d` = log2 p - log2 q, `large` and `small` the two masses of an element, `ratio` = small / large,
`rest` = 1 - ratio with its own full relative accuracy.
"""

from __future__ import annotations

import triton
import triton.language as tl

JS, JS_BETA, KL, MSE, AFFINE = (tl.constexpr(i) for i in range(5))
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
INFINITY: tl.constexpr = tl.constexpr(float("inf"))


@triton.jit
def decay(t):
    """2^-t for t >= 0 and 1 - 2^-t, the second with its own full relative accuracy near 0."""
    t = tl.where(t > 127.0, 127.0, t)  # NaN stays NaN
    whole = tl.floor(t + 0.5)
    r = whole - t
    series = 1.339073546e-03 + r * 1.540350824e-04
    series = 5.550357434e-02 + r * (9.618237508e-03 + r * series)
    excess = r * (6.931471879e-01 + r * (2.402264979e-01 + r * series))
    power = tl.exp2(-whole)
    return power + power * excess, (1.0 - power) - power * excess


@triton.jit
def midpoint(v):
    """Of two masses 1 and 1 - v and their mean m = 1 - v / 2, each with full relative accuracy.

    log(1 / m); the term of the larger mass; what that of the smaller has on top, for v < 1/4.
    """
    square = v * v
    series = 4.458567297e-03 + v * (-3.035555912e-03 + v * 1.288060575e-03)
    series = 6.047892077e-03 + v * (3.587345233e-03 + v * (-1.510514501e-03 + v * series))
    series = 1.250000050e-01 + v * (4.166587518e-02 + v * (1.564549792e-02 + v * series))
    more = 3.516169996e-02 + v * (2.116527859e-02 + v * 4.016518158e-02)
    more = 4.166747497e-02 + v * (4.162214637e-02 + v * more)
    return 0.5 * v + square * series, square * series, square * v * more


@triton.jit
def pair(a, b, shift_a, shift_b, offset_a, offset_b, delta, scale):
    """(d, large, small, ratio, rest) of the elements of two softmax rows."""
    log_p = (a - shift_a) * scale - offset_a
    log_q = (b - shift_b) * scale - offset_b
    large = tl.exp2(tl.where(log_p > log_q, log_p, log_q))
    d = tl.where(large == 0.0, 0.0, (a - b) * scale - delta)  # inf - inf where no mass is left
    ratio, rest = decay(tl.abs(d))
    return d, large, large * ratio, ratio, rest


@triton.jit
def natural(d):
    """|d| in nats, finite."""
    t = tl.abs(d)
    return tl.where(t > 127.0, 127.0, t) * LN2


@triton.jit
def mended_psi(x, one_plus_x, log1p_x):
    """psi(x) and log(1 + x), from a logarithm that is inaccurate near x = 0."""
    series = 1 / 12 + x * (-1 / 20 + x * (1 / 30 + x * (-1 / 42 + x * (1 / 56))))
    series = x * x * (1 / 2 + x * (-1 / 6 + x * series))
    near = tl.abs(x) < 0.15
    psi = tl.where(near, series, one_plus_x * log1p_x - x)
    return psi, tl.where(near, (series + x) / one_plus_x, log1p_x)


@triton.jit
def beta_logs(weight_large, weight_small, d, ratio, rest):
    """Psi and log(1 + x) of the larger mass against the mixture, and of the smaller one."""
    mean = weight_large + weight_small * ratio
    up = -tl.log2(mean) * LN2
    down = up - natural(d)
    psi_up, up = mended_psi(weight_small * rest / mean, 1.0 / mean, up)
    psi_down, down = mended_psi(-weight_large * rest / mean, ratio / mean, down)
    return psi_up, up, psi_down, down


@triton.jit
def softmax_term(MEMBER: tl.constexpr, d, large, small, ratio, rest, beta):
    """The four terms of an element: for the student, for the teacher, p - q, the squared gap."""
    above = d > 0.0
    gap = large * tl.where(above, rest, -rest)
    term_a, term_b, square = gap * gap, gap * gap, gap * gap
    if MEMBER == JS:
        log, term_up, more = midpoint(rest)
        far = 0.5 * rest + ratio * (log - natural(d))
        term_down = tl.where(rest < 0.25, term_up + more, far)
        term_a = large * tl.where(above, term_up, term_down)
        term_b = large * tl.where(above, term_down, term_up)
    elif MEMBER == JS_BETA:
        weight_large = tl.where(above, beta, 1.0 - beta)
        weight_small = tl.where(above, 1.0 - beta, beta)
        psi_up, _, psi_down, _ = beta_logs(weight_large, weight_small, d, ratio, rest)
        mean = large * (weight_large + weight_small * ratio)
        term_a = mean * tl.where(above, psi_up, psi_down)
        term_b = mean * tl.where(above, psi_down, psi_up)
    elif MEMBER == KL:
        x = d * LN2
        q = tl.where(above, small, large)
        series = 1 / 24 + x * (1 / 120 + x * (1 / 720 + x * (1 / 5040)))
        near = q * x * x * (1 / 2 + x * (1 / 6 + x * series))
        far = large * tl.where(above, rest - ratio * natural(d), tl.abs(d) * LN2 - rest)
        term_a = tl.where(tl.abs(d) < 0.36, near, far)
    else:
        term_a = tl.where(above, large, small) * gap
        term_b = tl.where(above, small, large) * -gap
    return term_a, term_b, gap, square


@triton.jit
def settled(total, excess, curvature):
    """A sum of terms without what the rounding of delta, seen in sum p - sum q, put into it."""
    exact = total - 0.5 * curvature * excess * excess
    return tl.where(exact < 0.0, 0.0, exact)  # NaN stays NaN


@triton.jit
def softmax_gradient(MEMBER: tl.constexpr, d, large, small, ratio, rest, sum_a, sum_b, beta):
    """The gradients of an element, but for the member's constant factor."""
    above = d > 0.0
    p, q = tl.where(above, large, small), tl.where(above, small, large)
    gap = large * tl.where(above, rest, -rest)
    if MEMBER == JS:
        up, _, _ = midpoint(rest)
        down = up - natural(d)
        grad_a = p * (tl.where(above, up, down) - sum_a)
        grad_b = q * (tl.where(above, down, up) - sum_b)
    elif MEMBER == JS_BETA:
        weight_large = tl.where(above, beta, 1.0 - beta)
        _, up, _, down = beta_logs(weight_large, 1.0 - weight_large, d, ratio, rest)
        grad_a = beta * p * (tl.where(above, up, down) - sum_a)
        grad_b = (1.0 - beta) * q * (tl.where(above, down, up) - sum_b)
    elif MEMBER == KL:
        x = tl.where(above, natural(d), d * LN2)
        grad_a = gap
        grad_b = q * (-x - sum_a)
    else:
        grad_a = p * (gap - sum_a)
        grad_b = q * (-gap - sum_b)
    return grad_a, grad_b

"""The divergence family in plain PyTorch: the readable truth, differentiable at will."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# What a row reduces, by its name: the dimensions of (B, C, H, W).
REDUCED = {"channels": (1,), "cells": (2, 3), "image": (1, 2, 3), "images_and_cells": (0, 2, 3)}
ROOT_FLOOR = 1e-12  # below this a root has slope 0


def feature_divergence(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    row_weights: Sequence[Tensor] | None,
    *,
    over: str,
    normalize: str,
    divergence: str,
    temperature: float,
    eps: float,
    unbiased: bool,
    root: str | None,
    elements: str,
    rows: str,
) -> Tensor:
    """The P values of `sssd.ops.feature_divergence`, one a level: (P,); or all rows, (R,)."""
    values = []
    for level, (a, b) in enumerate(zip(student, teacher, strict=True)):
        dims = REDUCED[over]
        count = math.prod([a.shape[d] for d in dims])
        wide = torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32
        a, b = a.to(wide), b.to(wide)
        weights = None if row_weights is None else row_weights[level].to(wide)
        if weights is not None:  # a row left out may hold NaN, of which no gradient comes
            left_out = (weights == 0).reshape(
                [1 if d in dims else n for d, n in enumerate(a.shape)]
            )
            a, b = a.masked_fill(left_out, 0.0), b.masked_fill(left_out, 0.0)
        if a.numel() == 0:
            each = a.sum(dims) + b.sum(dims)
        elif normalize == "softmax":
            each = _softmax_rows(a, b, dims, temperature, divergence)
        else:
            each = _affine_rows(a, b, dims, normalize, divergence, eps, unbiased)
        if elements == "mean":
            each = each / max(1, count)
        if root == "row":
            each = safe_root(each)
        if rows == "none":
            values.append(each.flatten())
            continue
        value = each.sum() if weights is None else (each * weights).sum()
        if rows == "mean":
            total = value.new_full((), each.numel()) if weights is None else weights.sum()
            value = torch.where(total == 0, 0.0, value / torch.where(total == 0, 1.0, total))
        values.append(safe_root(value) if root == "level" else value)
    return torch.cat(values) if rows == "none" else torch.stack(values)


def safe_root(x: Tensor) -> Tensor:
    """Square root with slope 0, not infinity, at 0."""
    flat = x <= ROOT_FLOOR
    return torch.where(flat, x.detach().sqrt(), torch.where(flat, 1.0, x).sqrt())


def psi(x: Tensor) -> Tensor:
    """(1 + x) log(1 + x) - x >= 0 for x >= -1, without cancellation at 0."""
    near = x.abs() < 0.15
    small = torch.where(near, x, 0.0)
    series = torch.zeros_like(x)
    for k in range(16 if x.dtype == torch.float64 else 9, 1, -1):  # sum of (-x)^k / (k (k - 1))
        series = 1 / (k * (k - 1)) - small * series
    one_plus = torch.where(near | (x <= -1), 1.0, 1 + x)
    far = one_plus * one_plus.log() - x
    return torch.where(near, small * small * series, far)


def _softmax_rows(
    a: Tensor, b: Tensor, dims: tuple[int, ...], temperature: float, divergence: str
) -> Tensor:
    """One divergence a row, of softmax(a / temperature) and softmax(b / temperature)."""
    each = softmax_terms(a, b, dims, temperature, divergence).sum(dims)
    if divergence == "kl":
        impossible = (a == -math.inf) & (b > -math.inf) & _alive(a, b, dims)
        each = torch.where(impossible.any(dims), math.inf, each)
    return each


def _alive(a: Tensor, b: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The rows that hold more than -inf on both sides; others count 0."""
    some = [(x > -math.inf).any(dims, True) | x.isnan().any(dims, True) for x in (a, b)]
    return some[0] & some[1]


def softmax_terms(
    a: Tensor, b: Tensor, dims: tuple[int, ...], temperature: float, divergence: str
) -> Tensor:
    """What each element adds to the divergence of its row: shaped as the maps."""
    alive = _alive(a, b, dims)
    a, b = (_finite_low(x, dims, temperature, alive) for x in (a, b))
    lse_a = (a / temperature).logsumexp(dims, keepdim=True)
    lse_b = (b / temperature).logsumexp(dims, keepdim=True)
    p = (a / temperature - lse_a).exp()
    q = (b / temperature - lse_b).exp()
    d = (a - b) / temperature - (lse_a - lse_b)  # log p - log q, the logits subtracted first
    gap = _gap(p, q, d)  # p - q
    if divergence == "js":
        # p + q as a multiple of the larger mass, which it shares: nothing is divided by a small m.
        both = 1 + (-d.abs()).exp()
        x = -torch.expm1(-d.abs()) / both  # the masses are m (1 + x) and m (1 - x)
        term = torch.maximum(p, q) * both / 4 * (psi(x) + psi(-x))
    elif divergence == "kl":  # q (e^d - 1 - d)
        near = d.abs() < 0.15
        small = torch.where(near, d, 0.0)
        series = torch.zeros_like(d)
        for k in range(14 if d.dtype == torch.float64 else 8, 1, -1):
            series = 1 / math.factorial(k) + small * series
        term = torch.where(near, q * small * small * series, gap - q * d)
    else:
        term = gap * gap
    return torch.where(alive, term, 0.0)


def _finite_low(x: Tensor, dims: tuple[int, ...], temperature: float, alive: Tensor) -> Tensor:
    """-inf as a finite logit of no mass, so that no gradient is 0 times inf."""
    top = x.detach().amax(dims, keepdim=True)
    top = torch.where(alive, top, 0.0)
    low = top - 1e4 * temperature
    x = torch.where(alive, x, torch.zeros_like(x))
    return torch.where(x == -math.inf, low, x)


def _gap(p: Tensor, q: Tensor, d: Tensor) -> Tensor:
    """P - q, accurate however close they are: the larger times 1 - e^-|d|."""
    gap = torch.maximum(p, q) * -torch.expm1(-d.abs())
    return torch.where(d > 0, gap, -gap)


def _affine_rows(
    a: Tensor,
    b: Tensor,
    dims: tuple[int, ...],
    normalize: str,
    divergence: str,
    eps: float,
    unbiased: bool,
) -> Tensor:
    """One divergence a row, of standardised, unit-length or plain rows."""
    unit = divergence == "cosine"
    y, long_a = _normalized(a, dims, normalize, eps, unbiased, unit)
    z, long_b = _normalized(b, dims, normalize, eps, unbiased, unit)
    squared = (y - z).square().sum(dims)
    if not unit:
        return squared
    # 1 - y.z = (|y - z|^2 + (1 - |y|^2) + (1 - |z|^2)) / 2: only rows shorter than eps lack length.
    lack = sum(
        torch.where(long, 0.0, 1 - v.square().sum(dims)) for v, long in ((y, long_a), (z, long_b))
    )
    return (squared + lack) / 2


def _normalized(
    x: Tensor, dims: tuple[int, ...], normalize: str, eps: float, unbiased: bool, unit: bool
) -> tuple[Tensor, Tensor]:
    """The rows normalised, and which of them are not shorter than eps."""
    if normalize == "standardize":
        x = x - x.mean(dims, keepdim=True)
    squares = x.square().sum(dims, keepdim=True)
    long = squares.detach().sqrt() >= eps
    if normalize == "l2" or unit:
        x = x / torch.where(long, torch.where(long, squares, 1.0).sqrt(), eps)
    elif normalize == "standardize" and not unbiased:
        count = math.prod([x.shape[d] for d in dims])
        x = x / (squares / count + eps).sqrt()
    elif normalize == "standardize":
        variance = squares / max(math.prod([x.shape[d] for d in dims]) - 1, 1)
        flat = variance == 0
        x = x / (torch.where(flat, 0.0, torch.where(flat, 1.0, variance).sqrt()) + eps)
    return x, long.squeeze(dims)

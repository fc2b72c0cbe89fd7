"""Runs the Triton kernels of the divergence operator in Triton's interpreter against fp64.

A program of its own: the interpreter is chosen by TRITON_INTERPRET=1 before Triton is imported.
"""

from __future__ import annotations

import math
from itertools import cycle
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sssd.ops.reference.divergence import feature_divergence
from sssd.ops.triton import divergence as fused
from tests.ops.divergence_cases import (
    DEFAULTS,
    KERNEL_MEMBERS,
    OVER,
    PEAKED,
    SOFTMAX_ROWS,
    numbers_of,
    row_weights,
)

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
# Odd sizes, one cell, one channel, rows longer than a program takes at a time (nothing is tuned to
# the size: `cut` below makes rows of several pieces of these small ones).
SHAPES = [(2, 12, 3, 5), (1, 5, 1, 1), (1, 1, 4, 2), (2, 24, 3, 12)]
# Over what, and in channels_last or not, neighbours in memory are rows; else they are elements.
STRIDED = [("channels", False), ("cells", True), ("images_and_cells", True)]
DENSE = [
    ("channels", True), ("cells", False), ("image", False), ("image", True),
    ("images_and_cells", False),
]  # fmt: skip
DTYPES = [
    (FP32, FP32), (FP32, BF16), (FP16, FP32), (BF16, BF16), (FP16, FP16), (BF16, FP32),
    (BF16, FP16),
]  # fmt: skip
KL, UNBIASED, COSINE = (KERNEL_MEMBERS[name] for name in ("kl", "unbiased", "cosine"))


class Case(NamedTuple):
    """A member on maps of a layout, weighted or not, with rows of several pieces or of one."""

    member: str
    over: str
    last: bool
    dtypes: tuple[torch.dtype, torch.dtype]
    weighted: bool
    cut: bool


def cases() -> list[Case]:
    """Every member with rows of both kinds; all else in turn."""
    both = zip(KERNEL_MEMBERS, cycle(STRIDED), cycle(DENSE), strict=False)
    rows = [(member, *way) for member, *ways in both for way in ways]
    turns = zip(cycle(DTYPES), cycle([True, False, True, False, False]), cycle([True, True, False]))
    return [Case(*row, *turn) for row, turn in zip(rows, turns, strict=False)]


def run(
    student: list[Tensor],
    teacher: list[Tensor],
    weights: list[Tensor],
    need: tuple[bool, bool] = (True, True),
    **options: Any,
) -> tuple[Tensor, list[Tensor]]:
    """Values, and the gradients of their sum, weighted by 1 to 2."""
    given = numbers_of(**options)
    values, factors, saved = fused.divergence_forward(student, teacher, weights, *given)
    plain = DEFAULTS | options | {"root": None, "elements": "sum", "rows": "none"}
    each = feature_divergence(
        *([x.double() for x in side] for side in (student, teacher)), None, **plain
    )
    torch.testing.assert_close(saved[0].double(), each, rtol=1e-5, atol=1e-6, equal_nan=True)
    upstream = torch.linspace(1, 2, len(student))
    grads = fused.divergence_backward(
        upstream, student, teacher, weights, factors, saved, *given, *need
    )
    return values, [*grads[0], *grads[1]]


def check(
    student: list[Tensor], teacher: list[Tensor], weights: list[Tensor], **options: Any
) -> None:
    """Values within 1e-5, gradients within the truncation to their dtype, in their format."""
    wide = [[x.double().requires_grad_() for x in side] for side in (student, teacher)]
    expected = feature_divergence(*wide, weights or None, **DEFAULTS | options)
    (expected * torch.linspace(1, 2, len(student))).sum().backward()
    values, grads = run(student, teacher, weights, **options)
    torch.testing.assert_close(values.double(), expected.detach(), rtol=1e-5, atol=1e-7)
    for grad, given, x in zip(grads, [*student, *teacher], [*wide[0], *wide[1]], strict=True):
        assert (grad.dtype, grad.stride()) == (given.dtype, given.stride())
        bound = {FP32: 4e-6, BF16: 1.2e-2, FP16: 1.5e-3}[grad.dtype]  # the interpreter truncates
        torch.testing.assert_close(grad.isnan(), x.grad.isnan(), rtol=0, atol=0)
        error = (grad.double() - x.grad).nan_to_num().norm()
        kind = torch.finfo(grad.dtype)
        flushed = kind.smallest_normal * kind.eps * grad.numel() ** 0.5
        bound = bound * x.grad.nan_to_num().norm() + 1e-7 + flushed
        assert error <= bound, (options, grad.shape, error)


def maps(
    dtypes: tuple[torch.dtype, torch.dtype], last: bool, gap: float = 0.7, spread: float = 2.0
) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    layout = torch.channels_last if last else torch.contiguous_format
    student = [spread * torch.randn(shape, generator=generator) for shape in SHAPES]
    teacher = [a + gap * torch.randn(a.shape, generator=generator) for a in student]
    return tuple(
        [x.to(dtype).contiguous(memory_format=layout) for x in side]
        for side, dtype in zip((student, teacher), dtypes, strict=True)
    )


def rows_of(maps: list[list[float]]) -> Tensor:
    """Rows over channels, one a cell."""
    return torch.tensor(maps).mT[None, :, :, None].contiguous()


def main() -> None:
    """The table, then maps that are equal or nearly so, what is not finite, and nothing at all."""
    fused.TILES = {True: (64, 8), False: (32, 32)}  # few programs, rows of several blocks
    fused.BLOCKS_A_PIECE = 1
    for case in cases():
        fused.PROGRAMS = 1024 if case.cut else 1
        student, teacher = maps(case.dtypes, case.last)
        weights = row_weights(student, case.over) if case.weighted else []
        check(student, teacher, weights, over=case.over, **KERNEL_MEMBERS[case.member])

    equal, near = maps((FP32, FP32), False, gap=1e-4)
    _, grads = run(equal, near, [])  # one side alone is the same, bit for bit
    for need, wanted in (((True, False), grads[:4]), ((False, True), grads[4:])):
        alone = run(equal, near, [], need)[1]
        assert all(torch.equal(x, y) for x, y in zip(alone, wanted, strict=True))
    for options in ({"root": "level"}, {"root": "row"}, KL, COSINE, UNBIASED):
        values, grads = run(equal, equal, [], **options)
        assert (values.abs() <= 1e-7).all() if options is COSINE else (values == 0).all()
        assert all((grad.abs() <= 1e-7).all() for grad in grads)
    for options in ({}, *SOFTMAX_ROWS.values()):
        check(equal, near, [], **options)
        check(*maps((FP32, FP32), False, gap=1.0, spread=PEAKED), [], **options)

    low, huge, nan = -math.inf, math.inf, math.nan
    # A mass of 0 on either side, on both; a side without mass; a large gap; what is not a number.
    a = rows_of([[low, 1, 2, low], [low] * 4, [9e4, 0, 0, 0], [0, nan, 1, 2], [low] * 4])
    b = rows_of([[0.5, low, 2, low], [1] * 4, [0, 9e4, 0, 0], [low] * 4, [huge, 1, 1, 1]])
    for options in ({}, {"divergence": "mse"}):
        check([a], [b], [], **options)
    for name in ("js", "kl", "softmax_mse", "standardize", "cosine", "plain"):
        options = KERNEL_MEMBERS[name]
        for bad in (nan, huge):
            student = [rows_of([[0, bad, 1, 2], [0, 1, 2, 3]]), torch.zeros(1, 4, 1, 1)]
            values, _ = run(student, [torch.ones_like(x) for x in student], [], **options)
            assert values.isfinite().tolist() == [False, True], (options, bad, values)
            weights = [torch.tensor([[[0.0], [1.0]]]), torch.ones(1, 1, 1)]  # the bad row left out
            values, grads = run(student, [x.roll(1, 1) for x in student], weights, **options)
            assert values.isfinite().all()
            assert all(grad.isfinite().all() for grad in grads)
    # What the student excludes and the teacher has is infinitely far, and pulls at nothing.
    a, b = rows_of([[low, 1, 2], [0, 1, 2]]), rows_of([[0.5, 1, 2], [low, 2, 1]])
    check([a], [b], [], **KL)

    empty = [torch.zeros(0, 3, 2, 2), torch.zeros(1, 3, 0, 2), torch.ones(1, 3, 1, 2)]
    for over in OVER:
        values, grads = run(empty, empty, [], over=over)
        assert values.tolist() == [0.0, 0.0, 0.0]
        assert [grad.shape for grad in grads] == 2 * [x.shape for x in empty]
    print("interpreted")


if __name__ == "__main__":
    main()

"""Runs the Triton kernels of the divergence operator in Triton's interpreter against fp64.

A program of its own: the interpreter is chosen by TRITON_INTERPRET=1 before Triton is imported.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sssd.ops.divergence_kernels import CHOICES, numbers
from sssd.ops.reference.divergence import REDUCED, feature_divergence
from sssd.ops.triton import divergence as fused
from tests.kernels.host_cuda import DEFAULTS

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
# Odd sizes, one cell, one channel, rows longer than a program takes at a time (nothing is tuned to
# the size: `cut` below makes rows of several pieces of these small ones).
SHAPES = [(2, 12, 3, 5), (1, 5, 1, 1), (1, 1, 4, 2), (2, 40, 3, 12)]
# A member of the family, then over, channels_last, dtypes, weighted, rows of several pieces: every
# member meets every `over` or both formats; the other choices in turn.
STANDARD = {"normalize": "standardize", "divergence": "mse"}
UNBIASED = STANDARD | {"unbiased": True, "eps": 1e-6}
PLAIN = {"normalize": "none", "divergence": "mse"}
COSINE = {"normalize": "none", "divergence": "cosine", "eps": 1e-12}
KL = {"divergence": "kl", "temperature": 4.0}
CASES: list[tuple[dict[str, Any], str, bool, tuple[torch.dtype, torch.dtype], bool, bool]] = [
    ({"root": "level"}, "channels", False, (FP32, FP32), False, True),
    ({"root": "level"}, "channels", True, (FP32, BF16), True, False),
    ({"root": "row", "elements": "mean"}, "cells", True, (FP32, FP32), True, True),
    ({"root": "row", "temperature": 3.0}, "image", False, (FP16, FP32), False, True),
    ({"rows": "sum"}, "images_and_cells", False, (FP32, FP32), True, True),
    ({"root": "level"}, "images_and_cells", True, (BF16, BF16), False, False),
    (KL | {"rows": "sum"}, "cells", False, (FP32, FP32), False, True),
    (KL | {"root": "row"}, "channels", True, (FP16, FP16), True, False),
    ({"divergence": "mse", "root": "level"}, "image", True, (FP32, FP32), True, True),
    ({"divergence": "mse", "temperature": 2.0}, "channels", False, (BF16, FP32), False, True),
    (STANDARD | {"elements": "mean"}, "cells", False, (FP32, FP32), True, True),
    (STANDARD | {"root": "row"}, "images_and_cells", True, (FP32, FP16), False, True),
    (UNBIASED, "channels", False, (FP32, FP32), True, False),
    (UNBIASED, "images_and_cells", False, (FP16, FP16), False, True),
    ({"normalize": "l2", "divergence": "mse"}, "channels", True, (FP32, FP32), False, True),
    ({"normalize": "l2", "divergence": "cosine"}, "cells", False, (BF16, BF16), True, True),
    (STANDARD | {"divergence": "cosine"}, "image", False, (FP32, FP32), False, True),
    (COSINE, "channels", False, (FP32, BF16), True, False),
    (PLAIN | {"root": "level"}, "cells", True, (FP32, FP32), True, True),
    (PLAIN, "images_and_cells", False, (BF16, FP16), False, True),
]


def run(
    student: list[Tensor],
    teacher: list[Tensor],
    weights: list[Tensor],
    need: tuple[bool, bool] = (True, True),
    **options: Any,
) -> tuple[Tensor, list[Tensor]]:
    """Values, and the gradients of their sum, weighted by 1 to 2."""
    given = numbers(DEFAULTS | options)
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
        assert error <= bound * x.grad.nan_to_num().norm() + 1e-7, (options, grad.shape, error)


def maps(
    dtypes: tuple[torch.dtype, torch.dtype], last: bool, gap: float = 0.7
) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    layout = torch.channels_last if last else torch.contiguous_format
    student = [2 * torch.randn(shape, generator=generator) for shape in SHAPES]
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
    for options, over, last, dtypes, weighted, cut in CASES:
        fused.PROGRAMS = 1024 if cut else 1
        student, teacher = maps(dtypes, last)
        kept = [d for d in range(4) if d not in REDUCED[over]]
        weights = [torch.rand([x.shape[d] for d in kept]).round(decimals=1) for x in student]
        check(student, teacher, weights if weighted else [], over=over, **options)

    equal, near = maps((FP32, FP32), False, gap=1e-4)
    _, grads = run(equal, near, [])  # one side alone is the same, bit for bit
    for need, wanted in (((True, False), grads[:4]), ((False, True), grads[4:])):
        alone = run(equal, near, [], need)[1]
        assert all(torch.equal(x, y) for x, y in zip(alone, wanted, strict=True))
    for options in ({"root": "level"}, {"root": "row"}, KL, COSINE, UNBIASED):
        values, grads = run(equal, equal, [], **options)
        assert (values.abs() <= 1e-7).all() if options is COSINE else (values == 0).all()
        assert all((grad.abs() <= 1e-7).all() for grad in grads)
    for options in ({}, KL, {"root": "row"}):
        check(equal, near, [], **options)

    low, huge, nan = -math.inf, math.inf, math.nan
    # A mass of 0 on either side, on both; a side without mass; a large gap; what is not a number.
    a = rows_of([[low, 1, 2, low], [low] * 4, [9e4, 0, 0, 0], [0, nan, 1, 2], [low] * 4])
    b = rows_of([[0.5, low, 2, low], [1] * 4, [0, 9e4, 0, 0], [low] * 4, [huge, 1, 1, 1]])
    for options in ({}, {"divergence": "mse"}):
        check([a], [b], [], **options)
    for options in ({}, KL, {"divergence": "mse"}, STANDARD, COSINE, PLAIN):
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
    for over in CHOICES["over"]:
        values, grads = run(empty, empty, [], over=over)
        assert values.tolist() == [0.0, 0.0, 0.0]
        assert [grad.shape for grad in grads] == 2 * [x.shape for x in empty]
    print("interpreted")


if __name__ == "__main__":
    main()

"""Runs the Triton kernels of the divergence operator in Triton's interpreter against fp64.

A program of its own: the interpreter is chosen by TRITON_INTERPRET=1 before Triton is imported.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from sssd.ops.reference.divergence import feature_divergence
from sssd.ops.triton import divergence as fused
from sssd.ops.triton import divergence_plan

from .host_cuda import CODES, DEFAULTS

SHAPES = [(2, 12, 3, 5), (1, 5, 1, 1), (1, 1, 4, 2)]
# Rows that are cut into pieces: shape, over, channels_last.
SPLIT = [
    ((2, 2, 32, 34), "images_and_cells", False),
    ((1, 3, 12, 14), "cells", True),
    ((1, 2, 40, 52), "cells", False),
]
FAMILY: list[dict[str, Any]] = [
    {"root": "level"},
    {"root": "row", "temperature": 3.0, "elements": "mean"},
    {"beta": 0.3},
    {"divergence": "kl", "temperature": 4.0, "rows": "sum"},
    {"divergence": "mse"},
    {"normalize": "standardize", "divergence": "mse", "elements": "mean"},
    {"normalize": "standardize", "divergence": "mse", "unbiased": True, "eps": 1e-6},
    {"normalize": "l2", "divergence": "cosine", "eps": 1e-12},
    {"normalize": "none", "divergence": "mse"},
]
OVER = ("channels", "cells", "image", "images_and_cells")


def run(
    student: list[Tensor], teacher: list[Tensor], weights: list[Tensor], **options: Any
) -> tuple[Tensor, list[Tensor]]:
    """Values, and the gradients of their sum."""
    chosen = DEFAULTS | options
    given = (
        OVER.index(chosen["over"]),
        *(
            CODES[key][chosen[key]]
            for key in ("normalize", "divergence", "root", "rows", "elements")
        ),
        *(chosen[key] for key in ("unbiased", "temperature", "beta", "eps")),
    )
    values, factors, saved = fused.divergence_forward(student, teacher, weights, *given)
    ones = torch.ones(len(student))
    grads = fused.divergence_backward(
        ones, student, teacher, weights, factors, saved, *given, True, True
    )
    return values, [*grads[0], *grads[1]]


def check(
    student: list[Tensor], teacher: list[Tensor], weights: list[Tensor], **options: Any
) -> None:
    """Values within 1e-5, gradients within the truncation to their dtype."""
    wide = [[x.double().requires_grad_() for x in side] for side in (student, teacher)]
    expected = feature_divergence(*wide, weights or None, **DEFAULTS | options)
    expected.sum().backward()
    values, grads = run(student, teacher, weights, **options)
    torch.testing.assert_close(values.double(), expected.detach(), rtol=1e-5, atol=1e-7)
    for grad, x in zip(grads, [*wide[0], *wide[1]], strict=True):
        bound = 3e-6 if grad.dtype == torch.float32 else 1.2e-2  # the interpreter truncates
        error = (grad.double() - x.grad).norm()
        assert error <= bound * x.grad.norm() + 1e-7, (options, grad.shape, error)


def maps(
    dtype: torch.dtype, last: bool, shapes: list[tuple[int, ...]] = SHAPES
) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    layout = torch.channels_last if last else torch.contiguous_format
    student = [2 * torch.randn(shape, generator=generator) for shape in shapes]
    teacher = [a + 0.7 * torch.randn(a.shape, generator=generator) for a in student]
    return tuple(
        [x.to(dtype).contiguous(memory_format=layout) for x in side] for side in (student, teacher)
    )


def main() -> None:
    """Every member, layout, type; weights; rows of several blocks; special values."""
    # Levels of one kind are one launch, whatever their number and their sizes.
    pyramid = [torch.zeros(1, 256, n, n) for n in (64, 32, 16, 8, 4)]
    for over, backward in itertools.product((0, 1), (False, True)):
        (group,) = divergence_plan.plan([pyramid, pyramid], over, backward).groups
        assert group.levels == [0, 1, 2, 3, 4]

    for over, last in itertools.product(OVER, (False, True)):
        check(*maps(torch.float32, last), [], over=over, **FAMILY[0])
    for options, over in itertools.product(FAMILY[1:], ("channels", "cells")):
        check(*maps(torch.float32, False), [], over=over, **options)
    for dtype in (torch.bfloat16, torch.float16):
        check(*maps(dtype, False), [])
    student, teacher = maps(torch.float32, False)
    weights = [torch.rand(x.shape[0], *x.shape[2:]).round(decimals=1) for x in student]
    check(student, teacher, weights, root="level")

    divergence_plan.ELEMENTS_OF_A_PROGRAM = 64  # rows of several blocks, in small maps
    divergence_plan.ENOUGH_PROGRAMS = 1  # and not cut into pieces
    for over, last in itertools.product(("cells", "images_and_cells"), (False, True)):
        check(*maps(torch.float32, last), [], over=over)
    check(*maps(torch.float32, False), [], over="cells", **FAMILY[5])

    divergence_plan.ENOUGH_PROGRAMS = 256
    for shape, over, last in SPLIT:
        student, teacher = maps(torch.float32, last, [shape, (1, shape[1], 2, 3)])
        groups = divergence_plan.plan([student, teacher], OVER.index(over), False).groups
        assert [group.kind.SPLIT for group in groups] == [True, False], (shape, over, last)
        for options in (FAMILY[0], FAMILY[5]):
            check(student, teacher, [], over=over, **options)
    weights = [torch.rand(x.shape[:2]).round(decimals=1) for x in student]
    check(student, teacher, weights, over="cells", root="row")

    equal = maps(torch.float32, False)[0]
    values, grads = run(equal, equal, [], root="level")
    assert (values == 0).all()
    assert all((grad == 0).all() for grad in grads)
    low = -math.inf
    a = torch.tensor([[low, 1.0, 2.0, low], [low] * 4, [9e4, 0.0, 0.0, 0.0]]).mT[None, :, :, None]
    b = torch.tensor([[0.5, low, 2.0, low], [1.0] * 4, [0.0, 9e4, 0.0, 0.0]]).mT[None, :, :, None]
    check([a.contiguous()], [b.contiguous()], [])
    empty = [torch.zeros(0, 3, 2, 2), torch.zeros(1, 3, 0, 2)]
    assert run(empty, empty, [])[0].tolist() == [0.0, 0.0]
    print("interpreted")


if __name__ == "__main__":
    main()

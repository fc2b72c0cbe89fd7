"""How far from float64 a box operator may be, and the checks of every backend that go by it.

Every kernel sums in float32 and rounds once to the dtype of its result. Let u = 2^-24 be the unit
roundoff of float32. A sum of n terms, in whatever order, is off by at most

    (n - 1) u sum |terms|                                     (Higham, Accuracy and Stability, 4.2)

a term that k operations made by at most k u |term|, the rounding to bfloat16 or float16 by half the
distance of two neighbours there. So with m = n + k, which is small beside 1 / u,

    |found - exact| <= m u / (1 - m u) sum |terms| + ulp(exact) / 2.

`exact`, the sum of |terms| and n are what the reference gives in float64 for the values, for their
absolutes and for ones: nothing here was tuned to what a kernel happens to give.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sssd.ops.reference import boxes as reference
from sssd.ops.reference import heatmap as reference_heatmap
from tests.ops.rounding import UNIT, half_ulp

Size = tuple[int, int]

# Operations that make one term: the quotient of a mean; a profile with its strength. A pyramid has
# a rounded scale and offset, a multiply-add, a difference, the strength. A Gaussian's exponent, at
# most 9, is a product of three roundings, and the fast exponential takes it to base 2 by one more:
# 9 (3 + 1); it is right to 3 units, and there is the strength.
MEAN = 1
PROFILE = {"box": 1, "pyramid": 5, "gaussian": 40, "gaussian_legacy": 40}


@torch.no_grad()
def assert_sums(found: Tensor, exact: Tensor, absolute: Tensor, operations: Tensor | int) -> None:
    """Hold sums in float32, rounded to their dtype, to the analysis of this module.

    Args:
        found: of an operator.
        exact: the same in float64.
        absolute: float64, the sum of the absolutes of its terms.
        operations: m, the roundings on the way to each sum; shaped to broadcast.
    """
    off = operations * UNIT
    error = off / (1 - off) * absolute
    if found.dtype != torch.float32:
        error = error + half_ulp(exact.abs() + error, found.dtype)
    beyond = (found.double() - exact).abs() - error
    assert found.shape == exact.shape
    assert not beyond.isnan().any(), "not a number"
    worst = beyond.argmax() if beyond.numel() else 0
    assert beyond.numel() == 0 or beyond.max() <= 0, (
        f"{found.flatten()[worst].item()} is {exact.flatten()[worst].item()} in float64: "
        f"off by {(beyond + error).flatten()[worst].item():.3g}, which may be "
        f"{error.expand_as(exact).flatten()[worst].item():.3g}"
    )


@torch.no_grad()
def check_pool(
    pooled: Tensor, levels: Sequence[Tensor], boxes: Tensor, index: Tensor, image: Size, *,
    mean: bool = True,
) -> None:  # fmt: skip
    """Hold (P, T, C) to the analysis: a sum over the cells of each object."""
    wide = [level.double() for level in levels]
    where = (boxes, index, image)
    assert pooled.dtype == levels[0].dtype
    assert_sums(
        pooled,
        reference.pool_boxes(wide, *where, mean=mean),
        reference.pool_boxes([level.abs() for level in wide], *where, mean=mean),
        MEAN + reference.pool_boxes([torch.ones_like(x[:, :1]) for x in wide], *where, mean=False),
    )


@torch.no_grad()
def check_paint(
    painted: Sequence[Tensor], values: Tensor, boxes: Tensor, index: Tensor, image: Size, *,
    mean: bool = False,
) -> None:  # fmt: skip
    """Hold maps to the analysis: a sum over the objects that cover each cell."""
    shapes = [(level.shape[2], level.shape[3]) for level in painted]
    where = (boxes, index, image, shapes, painted[0].shape[0])
    wide = values.double()
    exact = reference.paint_boxes(wide, *where, mean=mean)
    absolute = reference.paint_boxes(wide.abs(), *where, mean=mean)
    objects = reference.paint_boxes(torch.ones_like(wide[..., :1]), *where)
    for level, *truth, count in zip(painted, exact, absolute, objects, strict=True):
        assert level.dtype == values.dtype
        assert_sums(level, *truth, MEAN + count)


def drawn(
    where: tuple[Any, ...], profile: str, combine: str, strength: Tensor | None
) -> tuple[list[Tensor], list[Tensor], int]:
    """Exact heatmaps, what their error is in proportion to, and the roundings in a cell.

    A pyramid is 1 less something: its error is in proportion to 1. A maximum rounds nothing, a sum
    takes all objects of an image and class at the worst.
    """
    options = {"combine": combine, "strength": strength, "dtype": torch.float64}
    options |= {"assigned": None, "min_overlap": 0.7}
    heat = reference_heatmap.label_heatmap(*where, profile=profile, **options)
    box = reference_heatmap.label_heatmap(*where, profile="box", **options)
    _, labels, index, *_ = where
    most = torch.unique(torch.stack([labels, index]), dim=1, return_counts=True)[1]
    objects = int(most.max()) if combine == "sum" and len(labels) else 0
    return heat, box if profile == "pyramid" else heat, objects + PROFILE[profile]


@torch.no_grad()
def check_heatmap(
    maps: Sequence[Tensor], *where: Any, profile: str, combine: str,
    strength: Tensor | None = None,
) -> None:  # fmt: skip
    """Hold (B, K, H, W) maps; `where` is what `sssd.ops.label_heatmap` takes."""
    heat, scale, operations = drawn(where, profile, combine, strength)
    for level, exact, absolute in zip(maps, heat, scale, strict=True):
        assert_sums(level, exact, absolute, operations)

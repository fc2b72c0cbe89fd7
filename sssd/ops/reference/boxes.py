"""Which cells a box covers, and the pool and paint that follow, in plain differentiable PyTorch.

Written to be checked against the formulas, as products with dense masks: the memory grows with
objects x cells. The native operators compute the same without a mask. What is infinite or NaN in a
map, they add to the objects that cover it, and a product makes it NaN in all others too.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.amp import is_autocast_available


def cell_spans(boxes: Tensor, image_size: tuple[int, int], level_shape: tuple[int, int]) -> Tensor:
    r"""Spans of the cells that each box covers on one level.

    Cell (i, j) stands at the image point (j W / W_l, i H / H_l), and a box covers the cells whose
    point lies in it, border included:

        columns ceil(x1 W_l / W) .. floor(x2 W_l / W),  rows ceil(y1 H_l / H) .. floor(y2 H_l / H)

    cut to the level. A box that holds no such point covers nothing, and neither does one that is
    not finite or has no positive width and height. The quotients are taken in double precision,
    each rounded once, so that for float32 boxes the rule is exact.

    Args:
        boxes: (T, 4) xyxy in pixels of the padded batch, floating point.
        image_size: (H, W) of the padded batch.
        level_shape: (H_l, W_l) of the level.

    Returns:
        (T, 4) int64: first column, end column, first row, end row; ends are exclusive and a box
        that covers nothing has four zeros.
    """
    corners = boxes.detach().double()
    x1, y1, x2, y2 = corners.unbind(-1)
    usable = corners.isfinite().all(-1) & (x2 > x1) & (y2 > y1)

    def span(low: Tensor, high: Tensor, pixels: int, cells: int) -> tuple[Tensor, Tensor]:
        first = torch.ceil(quotient(low * cells, pixels)).nan_to_num(0.0).clamp(0, cells)
        end = (torch.floor(quotient(high * cells, pixels)) + 1).nan_to_num(0.0).clamp(0, cells)
        return first, end

    left, right = span(x1, x2, image_size[1], level_shape[1])
    top, bottom = span(y1, y2, image_size[0], level_shape[0])
    usable &= (right > left) & (bottom > top)
    spans = torch.stack((left, right, top, bottom), dim=-1).long()  # (T, 4)
    return spans * usable[:, None]


def quotient(x: Tensor, number: float) -> Tensor:
    """Divide x, in floating point, by a number, rounded once on every device.

    By a number torch divides as x * (1 / number) on CUDA, which gives 8 * 49 / 392 as less than 1;
    by a tensor it divides.
    """
    return x / x.new_full((), number)


def cell_masks(boxes: Tensor, image_size: tuple[int, int], level_shape: tuple[int, int]) -> Tensor:
    """Mask (T, H_l, W_l), bool, of the cells that each box covers on one level."""
    left, right, top, bottom = cell_spans(boxes, image_size, level_shape)[..., None].unbind(1)
    rows = torch.arange(level_shape[0], device=boxes.device)
    columns = torch.arange(level_shape[1], device=boxes.device)
    in_rows = (rows >= top) & (rows < bottom)  # (T, H_l)
    in_columns = (columns >= left) & (columns < right)  # (T, W_l)
    return in_rows[:, :, None] & in_columns[:, None, :]


def pool_boxes(
    levels: Sequence[Tensor],
    boxes: Tensor,
    image_index: Tensor,
    image_size: tuple[int, int],
    *,
    mean: bool = True,
) -> Tensor:
    """Mean (or sum) of each map over each object's cells, (P, T, C); see `sssd.ops.pool_boxes`."""
    pooled = []
    for level in levels:
        height, width = level.shape[2:]
        masks = cell_masks(boxes, image_size, (height, width)).flatten(1)  # (T, cells)
        maps = level.flatten(2).to(torch.promote_types(level.dtype, torch.float32))
        total = maps.new_zeros(len(boxes), maps.shape[1])  # (T, C)
        for image, cells in enumerate(maps):
            in_image = masks & (image_index == image)[:, None]
            total = total + _product(in_image, cells.T)
        if mean:
            total = total / masks.sum(1, keepdim=True).clamp(min=1)
        pooled.append(total.to(level.dtype))
    return torch.stack(pooled)


def paint_boxes(
    values: Tensor,
    boxes: Tensor,
    image_index: Tensor,
    image_size: tuple[int, int],
    level_shapes: Sequence[tuple[int, int]],
    batch_size: int,
    *,
    mean: bool = False,
) -> list[Tensor]:
    """Sum of the vectors of the objects that cover each cell; see `sssd.ops.paint_boxes`.

    With `mean`, each object's vector is first divided by its number of cells: the adjoint of the
    mean in `pool_boxes`.
    """
    per_level = values.expand(len(level_shapes), *values.shape[-2:])  # (P, T, C)
    images = torch.arange(batch_size, device=boxes.device)
    painted = []
    for vectors, (height, width) in zip(per_level, level_shapes, strict=True):
        masks = cell_masks(boxes, image_size, (height, width)).flatten(1)  # (T, cells)
        vectors = vectors.to(torch.promote_types(values.dtype, torch.float32))
        if mean:
            vectors = vectors / masks.sum(1, keepdim=True).clamp(min=1)
        in_image = (image_index == images[:, None])[:, :, None] & masks  # (B, T, cells)
        maps = _product(vectors.T, in_image)  # (B, C, cells)
        painted.append(maps.to(values.dtype).unflatten(2, (height, width)))
    return painted


def _product(a: Tensor, b: Tensor) -> Tensor:
    """The product of maps and masks in the dtype of the maps, whatever autocast would make of it.

    By way of float64, which takes more memory and on some GPUs far more time: a float32 product may
    be one of TensorFloat-32, or on a CPU of bfloat16 (`torch.set_float32_matmul_precision`).
    """
    kind = a.device.type
    with torch.autocast(kind, enabled=False) if is_autocast_available(kind) else nullcontext():
        return (a.double() @ b.double()).to(torch.promote_types(a.dtype, b.dtype))

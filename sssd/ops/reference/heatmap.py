"""Label heatmaps in plain PyTorch: one dense profile an object, then one reduction a class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sssd.ops.reference.boxes import cell_masks, quotient


def gaussian_radius(
    height: Tensor, width: Tensor, min_overlap: float = 0.7, *, legacy: bool = False
) -> Tensor:
    r"""Largest shift of two corners that keeps an overlap of `min_overlap` with the box.

    The smallest root of three cases, for a box of h x w and an overlap (IoU) o:

        both corners shifted alike:  r^2 - (h + w) r + h w (1 - o) / (1 + o) = 0
        both shifted inwards:        4 r^2 - 2 (h + w) r + (1 - o) h w = 0
        both shifted outwards:       4 o r^2 + 2 o (h + w) r - (1 - o) h w = 0

    `legacy` takes (b + sqrt(b^2 - 4 a c)) / 2 for all three, as the first release of CornerNet and
    CenterNet after it do: the published models were trained with it.

    Source: Law and Deng, "CornerNet", ECCV 2018, section 3.2, and the note at its radius function.
    """
    total, area = height + width, height * width
    cases = (
        (1.0, total, quotient(area * (1 - min_overlap), 1 + min_overlap)),
        (4.0, 2 * total, (1 - min_overlap) * area),
        (4 * min_overlap, -2 * min_overlap * total, (min_overlap - 1) * area),
    )
    radii = []
    for case, (a, b, c) in enumerate(cases):
        root = _sqrt(b * b - 4 * a * c)
        if legacy:
            radii.append((b + root) / 2)
        elif case == 2:  # the outward case has one negative root
            radii.append(quotient(b + root, 2 * a))
        else:  # the smaller root: beyond it the overlap is already lost
            radii.append(quotient(b - root, 2 * a))
    return torch.stack(radii).amin(0)


def _sqrt(x: Tensor) -> Tensor:
    """The correctly rounded root, which torch's on the CPU is not: 17688.999999999996 gave
    132.99999999999997, and a box of 15 x 70 cells the legacy radius 6 instead of 7.

    Of torch's root and its neighbours, the r with r pred(r) < x <= r succ(r) (Tuckerman's test).
    """
    root = x.sqrt()
    below, above = (torch.nextafter(root, root.new_full((), end)) for end in (0.0, math.inf))
    root = torch.where(_minus_product(x, root, above) > 0, above, root)
    return torch.where(_minus_product(x, root, below) <= 0, below, root)


def _minus_product(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """What x exceeds the product a b by, where they are close, as if that were exact (Dekker)."""
    (a1, a2), (b1, b2) = _halves(a), _halves(b)
    product = a * b
    rest = ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2
    return (x - product) - rest


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Two numbers of half the bits each whose sum is x (Veltkamp)."""
    wide = x * (2**27 + 1)
    high = wide - (wide - x)
    return high, x - high


def gaussian_windows(
    boxes: Tensor,
    image_size: tuple[int, int],
    level_shape: tuple[int, int],
    min_overlap: float,
    legacy: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Row and column of each box's centre, its radius in whole cells, and whether it is drawn.

    As in CenterNet: sizes are rounded up to cells, the radius down. A box whose centre is outside
    the level, or that is not usable, is not drawn. (T,) each, float64 and bool.
    """
    corners = boxes.detach().double()
    usable = corners.isfinite().all(-1) & (corners[:, :2] < corners[:, 2:]).all(-1)
    rows, columns = level_shape
    left, right = (quotient(corners[:, side] * columns, image_size[1]) for side in (0, 2))
    top, bottom = (quotient(corners[:, side] * rows, image_size[0]) for side in (1, 3))
    column, row = torch.floor((left + right) / 2), torch.floor((top + bottom) / 2)
    usable = usable & (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    width, height = torch.ceil(right - left).clamp(min=1), torch.ceil(bottom - top).clamp(min=1)
    radius = gaussian_radius(height, width, min_overlap, legacy=legacy).clamp(min=0).floor()
    return row, column, radius, usable


def gaussian_profile(
    boxes: Tensor,
    image_size: tuple[int, int],
    level_shape: tuple[int, int],
    min_overlap: float,
    *,
    legacy: bool,
) -> Tensor:
    """exp(-(dx^2 + dy^2) / 2 sigma^2) in the window of `gaussian_windows`, sigma = (2 r + 1) / 6.

    (T, H_l, W_l), float64.
    """
    rows, columns = level_shape
    row, column, radius, usable = gaussian_windows(
        boxes, image_size, level_shape, min_overlap, legacy
    )
    sigma = (2 * radius + 1) / 6
    down = torch.arange(rows, device=boxes.device) - row[:, None]  # (T, H_l)
    right = torch.arange(columns, device=boxes.device) - column[:, None]  # (T, W_l)
    inside = (down.abs() <= radius[:, None])[:, :, None] & (right.abs() <= radius[:, None])[:, None]
    squared = (down**2)[:, :, None] + (right**2)[:, None]
    profile = torch.exp(-squared / (2 * sigma**2)[:, None, None])
    return profile.where(inside & usable[:, None, None], 0.0)


def pyramid_profile(
    boxes: Tensor, image_size: tuple[int, int], level_shape: tuple[int, int]
) -> Tensor:
    """1 - max(|x - cx| / w, |y - cy| / h) on the covered cells: 1 at the centre, 0.5 on the border.

    (T, H_l, W_l), float64. Source: Hao et al., "LabelEnc", ECCV 2020, section 3.1.
    """
    left, top, right, bottom = boxes.detach().double()[..., None].unbind(1)
    rows, columns = level_shape
    y = torch.arange(rows, device=boxes.device, dtype=left.dtype) * image_size[0] / rows
    x = torch.arange(columns, device=boxes.device, dtype=left.dtype) * image_size[1] / columns
    along_y = (y - (top + bottom) / 2).abs() / (bottom - top)  # (T, H_l)
    along_x = (x - (left + right) / 2).abs() / (right - left)  # (T, W_l)
    profile = 1 - torch.maximum(along_y[:, :, None], along_x[:, None])
    return profile.where(cell_masks(boxes, image_size, level_shape), 0.0)


def label_heatmap(
    boxes: Tensor,
    labels: Tensor,
    image_index: Tensor,
    image_size: tuple[int, int],
    level_shapes: Sequence[tuple[int, int]],
    batch_size: int,
    num_classes: int,
    *,
    profile: str,
    combine: str,
    assigned: Tensor | None,
    min_overlap: float,
    strength: Tensor | None,
    dtype: torch.dtype,
) -> list[Tensor]:
    """Class heatmaps (B, K, H_l, W_l) of every level; see `sssd.ops.label_heatmap`.

    `assigned` (P, T), bool, says which objects each level shows; None shows all on every level.
    """
    in_maps = (image_index >= 0) & (image_index < batch_size)
    in_maps &= (labels >= 0) & (labels < num_classes)
    channel = (image_index.long() * num_classes + labels).where(in_maps, 0)
    maps = []
    for level, shape in enumerate(level_shapes):
        if profile == "box":
            values = cell_masks(boxes, image_size, shape).double()  # (T, H_l, W_l)
        elif profile == "pyramid":
            values = pyramid_profile(boxes, image_size, shape)
        else:
            legacy = profile == "gaussian_legacy"
            values = gaussian_profile(boxes, image_size, shape, min_overlap, legacy=legacy)
        if strength is not None:
            values = values * strength.float().double()[:, None, None]
        shown = in_maps if assigned is None else in_maps & assigned[level]
        values = values.where(shown[:, None, None], 0.0)
        heatmap = values.new_zeros(batch_size * num_classes, *shape)
        if combine == "max":
            heatmap = heatmap.scatter_reduce(
                0, channel[:, None, None].expand_as(values), values, "amax"
            )
        else:
            heatmap = heatmap.index_add(0, channel, values)
        maps.append(heatmap.unflatten(0, (batch_size, num_classes)).to(dtype))
    return maps

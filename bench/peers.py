"""What the box operators replace, each with the arguments of ours: for boxes.py and step.py."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sssd.ops.reference.boxes import cell_masks, cell_spans
from sssd.ops.reference.heatmap import gaussian_radius

Size = tuple[int, int]


# ---- the best vectorised PyTorch: dense masks, one product a level and image ---------------------


def vectorised_pool(levels: list[Tensor], boxes: Tensor, index: Tensor, size: Size) -> Tensor:
    """`sssd.ops.pool_boxes`."""
    pooled = []
    for level in levels:
        masks = cell_masks(boxes, size, (level.shape[2], level.shape[3]))
        rows = masks.flatten(1).to(level.dtype)
        result = level.new_zeros(len(boxes), level.shape[1])
        for image, features in enumerate(level):
            mine = (index == image).nonzero()[:, 0]
            result = result.index_copy(0, mine, rows[mine] @ features.flatten(1).T)
        pooled.append(result / rows.sum(1, keepdim=True).clamp(min=1))
    return torch.stack(pooled)


def vectorised_paint(
    values: Tensor,
    boxes: Tensor,
    index: Tensor,
    size: Size,
    shapes: list[Size],
    batch: int,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> list[Tensor]:
    """`sssd.ops.paint_boxes`, a vector for each object and level."""
    painted = []
    for level, shape in zip(values, shapes, strict=True):
        masks = cell_masks(boxes, size, shape).flatten(1).to(level.dtype)
        images = [level[index == b].T @ masks[index == b] for b in range(batch)]
        maps = torch.stack(images).unflatten(2, shape)
        painted.append(maps.contiguous(memory_format=memory_format))
    return painted


# ---- LGD as published: loops over levels and images, masks filled object by object ---------------


def looped_masks(boxes: Tensor, size: Size, shape: Size) -> Tensor:
    """A dense mask for each object, filled one after the other. (n, H, W)."""
    masks = torch.zeros(len(boxes), *shape)
    spans = cell_spans(boxes.cpu(), size, shape).tolist()
    for mask, (x1, x2, y1, y2) in zip(masks, spans, strict=True):
        mask[y1:y2, x1:x2] = 1
    return masks.to(boxes.device)


def looped_pool(levels: list[Tensor], boxes: Tensor, index: Tensor, size: Size) -> Tensor:
    """`sssd.ops.pool_boxes`."""
    pooled = []
    for level in levels:
        rows = level.new_zeros(len(boxes), level.shape[1])
        for image in range(len(level)):
            mine = (index == image).nonzero()[:, 0]
            masks = looped_masks(boxes[mine], size, (level.shape[2], level.shape[3]))
            means = torch.einsum("nhw,chw->nc", masks, level[image])
            rows = rows.index_copy(0, mine, means / masks.sum((1, 2)).clamp(min=1)[:, None])
        pooled.append(rows)
    return torch.stack(pooled)


def looped_paint(
    values: Tensor,
    boxes: Tensor,
    index: Tensor,
    size: Size,
    shapes: list[Size],
    batch: int,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> list[Tensor]:
    """`sssd.ops.paint_boxes`, a vector for each object and level."""
    painted = []
    for level, shape in zip(values, shapes, strict=True):
        images = []
        for image in range(batch):
            mine = (index == image).nonzero()[:, 0]
            masks = looped_masks(boxes[mine], size, shape)
            images.append(torch.einsum("nc,nhw->chw", level[mine], masks))
        painted.append(torch.stack(images).contiguous(memory_format=memory_format))
    return painted


# ---- heatmaps: loops over boxes -----------------------------------------------------------------


def centernet_heatmap(
    boxes: Tensor, labels: Tensor, index: Tensor, size: Size, shape: Size, batch: int, classes: int
) -> np.ndarray:
    """A Gaussian patch a box, maximum with the map's slice, in numpy."""
    heat = np.zeros((batch, classes, *shape), dtype=np.float32)
    ratio = shape[0] / size[0]
    for (x1, y1, x2, y2), label, image in zip(
        (boxes * ratio).tolist(), labels.tolist(), index.tolist(), strict=True
    ):
        extent = torch.tensor([y2 - y1, x2 - x1], dtype=torch.float64).ceil()
        radius = max(0, int(gaussian_radius(extent[0], extent[1], legacy=True)))
        column, row = int((x1 + x2) / 2), int((y1 + y2) / 2)
        y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
        sigma = (2 * radius + 1) / 6
        patch = np.exp(-(x * x + y * y) / (2 * sigma * sigma))
        left, right = min(column, radius), min(shape[1] - column, radius + 1)
        top, bottom = min(row, radius), min(shape[0] - row, radius + 1)
        plane = heat[image, label, row - top : row + bottom, column - left : column + right]
        np.maximum(
            plane, patch[radius - top : radius + bottom, radius - left : radius + right], out=plane
        )
    return heat


def labelenc_heatmap(
    boxes: Tensor, labels: Tensor, index: Tensor, size: Size, shape: Size, batch: int, classes: int
) -> Tensor:
    """A whole map of distances a box, maximum with the class's plane."""
    heat = torch.zeros(batch, classes, *shape)
    ratio = shape[0] / size[0]
    y = torch.arange(shape[0])[:, None]
    x = torch.arange(shape[1])[None, :]
    for (x1, y1, x2, y2), label, image in zip(
        (boxes * ratio).tolist(), labels.tolist(), index.tolist(), strict=True
    ):
        far = torch.maximum(
            (y - (y1 + y2) / 2).abs() / (y2 - y1), (x - (x1 + x2) / 2).abs() / (x2 - x1)
        )
        value = torch.where(far <= 0.5, 1 - far, torch.zeros(()))
        heat[image, label] = torch.maximum(heat[image, label], value)
    return heat

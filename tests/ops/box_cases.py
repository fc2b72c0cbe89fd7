"""Objects, maps, and what the box operators should give on them, in plain Python loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sssd.ops import dispatch

IMAGE_SIZE = (96, 160)
SHAPES = [(12, 20), (7, 11), (3, 5), (1, 1)]

needs_library = pytest.mark.skipif(bool(dispatch.MISSING), reason=dispatch.MISSING)
BACKENDS = ["reference", pytest.param("cpu", marks=needs_library)]
FORMATS = [torch.contiguous_format, torch.channels_last]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def objects(
    count: int, batch: int, seed: int = 0, image_size: tuple[int, int] = IMAGE_SIZE
) -> tuple[Tensor, Tensor]:
    """Boxes of all sizes, some beyond the border, with an image index in no order."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([image_size[1], image_size[0]])
    centre = torch.rand(count, 2, generator=generator) * size
    half = torch.rand(count, 2, generator=generator) ** 2 * size / 2
    index = torch.randint(0, batch, (count,), generator=generator)
    return torch.cat([centre - half, centre + half], dim=1), index


def maps(
    batch: int,
    channels: int,
    dtype: torch.dtype = torch.float64,
    memory_format: torch.memory_format = torch.contiguous_format,
    seed: int = 1,
) -> list[Tensor]:
    """Random feature maps of SHAPES."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, channels, *shape, generator=generator, dtype=torch.float64)
        .to(dtype)
        .contiguous(memory_format=memory_format)
        for shape in SHAPES
    ]


def covered(box: list[float], image_size: tuple[int, int], shape: tuple[int, int]) -> list[slice]:
    """Rows and columns that one box covers: the rule, cell by cell."""
    x1, y1, x2, y2 = box
    usable = all(map(math.isfinite, box)) and x2 > x1 and y2 > y1
    slices = []
    for low, high, pixels, cells in (
        (y1, y2, image_size[0], shape[0]),
        (x1, x2, image_size[1], shape[1]),
    ):
        inside = [
            i for i in range(cells) if usable and low * cells / pixels <= i <= high * cells / pixels
        ]
        slices.append(slice(inside[0], inside[-1] + 1) if inside else slice(0, 0))
    return slices


def expected_pool(levels: list[Tensor], boxes: Tensor, image_index: Tensor) -> Tensor:
    """Mean over the covered cells, object by object."""
    pooled = torch.zeros(len(levels), len(boxes), levels[0].shape[1], dtype=torch.float64)
    for place, level in enumerate(levels):
        for t, (box, image) in enumerate(zip(boxes.tolist(), image_index.tolist(), strict=True)):
            rows, columns = covered(box, IMAGE_SIZE, tuple(level.shape[2:]))
            cells = level[image, :, rows, columns].double().flatten(1)
            pooled[place, t] = cells.sum(1) / max(1, cells.shape[1])
    return pooled


def expected_paint(values: Tensor, boxes: Tensor, image_index: Tensor, batch: int) -> list[Tensor]:
    """Vectors added to the covered cells, object by object."""
    painted = []
    for place, shape in enumerate(SHAPES):
        level = torch.zeros(batch, values.shape[-1], *shape, dtype=torch.float64)
        vectors = (values if values.dim() == 2 else values[place]).double()
        for t, (box, image) in enumerate(zip(boxes.tolist(), image_index.tolist(), strict=True)):
            rows, columns = covered(box, IMAGE_SIZE, shape)
            level[image, :, rows, columns] += vectors[t][:, None, None]
        painted.append(level)
    return painted

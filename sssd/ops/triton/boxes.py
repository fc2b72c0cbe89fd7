# mypy: disable-error-code="no-untyped-def"
# (what @triton.jit compiles has no Python types)
"""Pool, paint and label heatmaps in Triton: one launch a level.

Which cells an object covers, and how it is drawn on them, is worked out by the reference's own
functions, in double: one row of four numbers an object. The kernels do the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from sssd.ops.box_kernels import PROFILES, is_channels_last, new_maps
from sssd.ops.reference.boxes import cell_spans
from sssd.ops.reference.heatmap import gaussian_windows
from sssd.ops.triton import generic

CHANNELS = 32  # that a program takes, and of how many cells of an object, or of a level
CELLS = 64
HEATMAP_CELLS = 512


@triton.jit
def span_at(spans, k):
    """Left, right, top, bottom of the cells of object k, ends exclusive; all 0 if it has none."""
    at = spans + 4 * k
    return tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)


@triton.jit
def cells_at(level, image, channel, channels, cell, area, LAST: tl.constexpr):
    """Where the cells of a map (B, C, area), or (B, area, C) if LAST, lie: (channel, cell)."""
    if LAST:
        at = (image * area + cell)[None, :] * channels + channel[:, None]
    else:
        at = (image * channels + channel)[:, None] * area + cell[None, :]
    return level + at


@generic
def pool_kernel(
    level, pooled, image_index, spans, height: tl.int64, width: tl.int64, channels: tl.int64,
    batch: tl.int64,
    LAST: tl.constexpr, MEAN: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Pool into (T, C): a program takes an object and some channels."""
    k = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1).to(tl.int64) * CHANNELS + tl.arange(0, CHANNELS)
    image = tl.load(image_index + k).to(tl.int64)
    left, right, top, bottom = span_at(spans, k)
    across, count = tl.maximum(right - left, 1), (right - left) * (bottom - top)
    if (image < 0) | (image >= batch):
        count = count * 0
    total = tl.zeros((CHANNELS, BLOCK), tl.float32)
    for first in range(0, count, BLOCK):
        place = first + tl.arange(0, BLOCK)
        cell = (top + place // across) * width + left + place % across
        exists = (channel < channels)[:, None] & (place < count)[None, :]
        at = cells_at(level, image, channel, channels, cell, height * width, LAST)
        total += tl.load(at, mask=exists, other=0.0).to(tl.float32)
    result = tl.sum(total, 1)
    if MEAN:
        result /= tl.maximum(count, 1).to(tl.float32)
    to = pooled + k * channels + channel
    tl.store(to, result.to(pooled.dtype.element_ty), mask=channel < channels)


@generic
def paint_kernel(
    level, values, order, start, spans, height: tl.int64, width: tl.int64, channels: tl.int64,
    LAST: tl.constexpr, MEAN: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A level from values (T, C): a program takes some cells and channels of an image.

    Objects start[b] .. start[b + 1] - 1 of `order` are those of image b.
    """
    cell = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.program_id(1).to(tl.int64) * CHANNELS + tl.arange(0, CHANNELS)
    image = tl.program_id(2).to(tl.int64)
    row, column = (cell // width).to(tl.int32), (cell % width).to(tl.int32)
    painted = tl.zeros((CHANNELS, BLOCK), tl.float32)
    for place in range(tl.load(start + image), tl.load(start + image + 1)):
        k = tl.load(order + place)
        left, right, top, bottom = span_at(spans, k)
        if (top <= tl.max(row, 0)) & (bottom > tl.min(row, 0)):
            value = tl.load(values + k * channels + channel, mask=channel < channels, other=0.0)
            value = value.to(tl.float32)
            if MEAN:
                value /= ((right - left) * (bottom - top)).to(tl.float32)
            inside = (row >= top) & (row < bottom) & (column >= left) & (column < right)
            painted += tl.where(inside[None, :], value[:, None], 0.0)
    to = cells_at(level, image, channel, channels, cell, height * width, LAST)
    exists = (channel < channels)[:, None] & (cell < height * width)[None, :]
    tl.store(to, painted.to(level.dtype.element_ty), mask=exists)


@generic
def heatmap_kernel(
    level, order, start, spans, numbers, strength, height: tl.int64, width: tl.int64,
    PROFILE: tl.constexpr, MAX: tl.constexpr, STRENGTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A level (B K, cells): a program takes `BLOCK` cells of an image and class.

    Objects start[g] .. start[g + 1] - 1 of `order` are those of group g, an image and class.
    `numbers` (T, 4) are a row and a column offset and a factor for each, counted from the first
    cell of the span, so that single precision is enough.
    """
    blocks = tl.cdiv(height * width, BLOCK)
    group = tl.program_id(0) // blocks
    cell = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    row, column = (cell // width).to(tl.int32), (cell % width).to(tl.int32)
    heat = tl.zeros((BLOCK,), tl.float32)
    for place in range(tl.load(start + group), tl.load(start + group + 1)):
        k = tl.load(order + place)
        left, right, top, bottom = span_at(spans, k)
        value = tl.full((BLOCK,), 1.0, tl.float32)
        if PROFILE != 0:
            at = numbers + 4 * k
            y = (row - top).to(tl.float32) - tl.load(at)
            x = (column - left).to(tl.float32) - tl.load(at + 2)
            factor_y, factor_x = tl.load(at + 1), tl.load(at + 3)
            if PROFILE == 1:  # pyramid
                value = 1.0 - tl.maximum(tl.abs(y * factor_y), tl.abs(x * factor_x))
            else:
                value = tl.exp(-(y * y * factor_y + x * x * factor_x))
        if STRENGTH:
            value *= tl.load(strength + k)
        inside = (row >= top) & (row < bottom) & (column >= left) & (column < right)
        value = tl.where(inside, value, 0.0)
        heat = tl.maximum(heat, value) if MAX else heat + value
    to = level + group * height * width + cell
    tl.store(to, heat.to(level.dtype.element_ty), mask=cell < height * width)


def grouped(key: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Objects in the order of a key, and where each of the groups 0 .. groups - 1 starts, and ends.

    Objects of one key keep their order; those of another key than these come last.
    """
    key = key.long()
    key = key.where((key >= 0) & (key < groups), groups)
    ordered, order = key.sort(stable=True)
    ends = torch.arange(groups + 1, device=key.device)
    return order, torch.searchsorted(ordered, ends)  # (T,), (groups + 1,)


def box_pool(
    levels: Sequence[Tensor], boxes: Tensor, image_index: Tensor, image_size: list[int], mean: bool
) -> Tensor:
    """The mean or sum of each map over each object's cells, (P, T, C)."""
    batch, channels = levels[0].shape[:2]
    pooled = levels[0].new_empty(len(levels), len(boxes), channels)
    if pooled.numel():
        for to, level in zip(pooled, levels, strict=True):
            height, width = level.shape[2:]
            last = is_channels_last(level)
            spans = cell_spans(boxes, (image_size[0], image_size[1]), (height, width)).int()
            pool_kernel[(len(boxes), triton.cdiv(channels, CHANNELS))](
                level if last else level.contiguous(), to, image_index.contiguous(), spans,
                height, width, channels, batch,
                LAST=last, MEAN=mean, CHANNELS=CHANNELS, BLOCK=CELLS,
            )  # fmt: skip
    return pooled


def box_paint(
    values: Tensor, boxes: Tensor, image_index: Tensor, image_size: list[int], shapes: list[int],
    batch: int, channels_last: list[int], mean: bool,
) -> list[Tensor]:  # fmt: skip
    """Maps (B, C, H_l, W_l) with the sum of the vectors of the objects that cover each cell."""
    channels = values.shape[-1]
    maps = new_maps(values, batch, channels, shapes, channels_last)
    per_level = values.contiguous().expand(len(maps), *values.shape[-2:])
    order, start = grouped(image_index, batch)
    for vectors, level, last in zip(per_level, maps, channels_last, strict=True):
        height, width = level.shape[2:]
        if level.numel():
            spans = cell_spans(boxes, (image_size[0], image_size[1]), (height, width)).int()
            grid = triton.cdiv(height * width, CELLS), triton.cdiv(channels, CHANNELS), batch
            paint_kernel[grid](
                level, vectors, order, start, spans, height, width, channels,
                LAST=bool(last), MEAN=mean, CHANNELS=CHANNELS, BLOCK=CELLS,
            )  # fmt: skip
    return maps


def label_heatmap(
    boxes: Tensor, labels: Tensor, image_index: Tensor, image_size: list[int], shapes: list[int],
    batch: int, classes: int, profile: int, combine: int, min_overlap: float,
    assigned: Tensor | None, strength: Tensor | None, like: Tensor,
) -> list[Tensor]:  # fmt: skip
    """Heatmaps (B, K, H_l, W_l)."""
    maps = new_maps(like, batch, classes, shapes, [0] * (len(shapes) // 2))
    of_class = (labels >= 0) & (labels < classes)
    key = (image_index.long() * classes + labels).where(of_class, -1)
    order, start = grouped(key, batch * classes)
    for place, level in enumerate(maps):
        if level.numel():
            height, width = level.shape[2:]
            spans, numbers = drawing(boxes, image_size, (height, width), profile, min_overlap)
            if assigned is not None:
                spans = spans * assigned[place][:, None]
            heatmap_kernel[(batch * classes * triton.cdiv(height * width, HEATMAP_CELLS),)](
                level, order, start, spans, numbers,
                numbers if strength is None else strength.float().contiguous(), height, width,
                PROFILE=min(profile, 2), MAX=combine == 0, STRENGTH=strength is not None,
                BLOCK=HEATMAP_CELLS,
            )  # fmt: skip
    return maps


def drawing(
    boxes: Tensor, image_size: list[int], shape: tuple[int, int], profile: int, min_overlap: float
) -> tuple[Tensor, Tensor]:
    """The cells of each object, (T, 4) int32, and the `numbers` of `heatmap_kernel`."""
    size = image_size[0], image_size[1]
    corners = boxes.double()
    if PROFILES[profile] in ("box", "pyramid"):
        spans = cell_spans(boxes, size, shape)
        if PROFILES[profile] == "box":
            return spans.int(), boxes  # no numbers
        left, top, right, bottom = corners.unbind(1)
        down, across = shape[0] / size[0], shape[1] / size[1]
        row, column = (top + bottom) / 2 * down, (left + right) / 2 * across
        factor_y, factor_x = 1 / ((bottom - top) * down), 1 / ((right - left) * across)
    else:
        legacy = PROFILES[profile] == "gaussian_legacy"
        row, column, radius, usable = gaussian_windows(boxes, size, shape, min_overlap, legacy)
        ends = (column - radius, column + radius + 1, row - radius, row + radius + 1)
        limits = (shape[1], shape[1], shape[0], shape[0])
        spans = torch.stack(
            [e.where(usable, 0.0).clamp(0, n) for e, n in zip(ends, limits, strict=True)], dim=1
        ).long()
        factor_y = factor_x = 18 / (2 * radius + 1) ** 2
    first = spans.double()
    numbers = torch.stack((row - first[:, 2], factor_y, column - first[:, 0], factor_x), dim=1)
    return spans.int(), numbers.float()

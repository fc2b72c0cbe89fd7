"""Label heatmaps in Triton: the contract of csrc/heatmaps.cpp, a launch for all levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from sssd.ops.box_kernels import new_maps
from sssd.ops.triton import heatmap_kernels as kernels
from sssd.ops.triton.boxes import CHANNELS, TILE_CELLS, grouped, sides, tiles_of, windows_of

HEATMAP_CELLS = 512  # of a tile that a program draws
STRIP_TILES = 16  # of TILE_CELLS cells, whose gradients are summed first


def why_not(**settings: Any) -> str:
    """What keeps Triton from a call: nothing."""
    return ""


class Drawing(NamedTuple):
    """Objects ordered by image and class, and how they are drawn, as the kernels take it."""

    labels: Tensor
    start: Tensor
    windows: Tensor
    numbers: Tensor
    strength: Tensor
    constants: dict[str, Any]


def drawing_of(
    boxes: Tensor,
    labels: Tensor,
    image_index: Tensor,
    image_size: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    batch: int,
    classes: int,
    profile: int,
    combine: int,
    min_overlap: float,
    assigned: Tensor | None,
    strength: Tensor | None,
) -> Drawing:
    """Orders the objects and works out their windows; two launches and a sort."""
    of_class = (labels >= 0) & (labels < classes)
    key = (image_index.long() * classes + labels).where(of_class, -1)
    order, start = grouped(key, batch * classes)
    windows, numbers = windows_of(
        boxes.contiguous(), order, image_size, sizes, profile=profile, min_overlap=min_overlap,
        assigned=None if assigned is None else assigned.contiguous(),
    )  # fmt: skip
    constants = {"PROFILE": profile, "MAX": combine == 0, "STRENGTH": strength is not None}
    factors = numbers if strength is None else strength.float()[order]
    return Drawing(labels.long()[order], start, windows, numbers, factors, constants)


def label_heatmap(
    boxes: Tensor,
    labels: Tensor,
    image_index: Tensor,
    image_size: list[int],
    shapes: list[int],
    batch: int,
    classes: int,
    profile: int,
    combine: int,
    min_overlap: float,
    assigned: Tensor | None,
    strength: Tensor | None,
    like: Tensor,
) -> list[Tensor]:
    """Heatmaps (B, K, H_l, W_l)."""
    maps = new_maps(like, batch, classes, shapes, [0] * (len(shapes) // 2))
    sizes = list(zip(shapes[::2], shapes[1::2], strict=True))
    drawing = drawing_of(
        boxes, labels, image_index, image_size, sizes, batch, classes, profile, combine,
        min_overlap, assigned, strength,
    )  # fmt: skip
    first, tiles = tiles_of(sizes, HEATMAP_CELLS)
    if tiles * batch:
        kernels.heatmap_kernel[(tiles * batch * classes,)](
            tuple(maps), *drawing[1:5], *sides(sizes), first, len(boxes), batch * classes,
            **drawing.constants, BLOCK=HEATMAP_CELLS,
        )  # fmt: skip
    return maps


def embed_heatmap(
    embedding: Tensor,
    boxes: Tensor,
    labels: Tensor,
    image_index: Tensor,
    image_size: list[int],
    shapes: list[int],
    batch: int,
    *options: Any,
) -> list[Tensor]:
    """Maps (B, C, H_l, W_l): the heatmaps times one vector a class."""
    classes, channels = embedding.shape
    maps = new_maps(embedding, batch, channels, shapes, [0] * (len(shapes) // 2))
    sizes = list(zip(shapes[::2], shapes[1::2], strict=True))
    drawing = drawing_of(
        boxes, labels, image_index, image_size, sizes, batch, classes, *options
    )  # fmt: skip
    first, tiles = tiles_of(sizes, TILE_CELLS)
    programs = tiles * batch * triton.cdiv(channels, CHANNELS)
    if programs:
        kernels.embed_kernel[(programs,)](
            tuple(maps), embedding.contiguous(), *drawing[:5], *sides(sizes), first, len(boxes),
            batch, classes, channels, **drawing.constants, CHANNELS=CHANNELS, BLOCK=TILE_CELLS,
        )  # fmt: skip
    return maps


def embed_heatmap_backward(
    grads: Sequence[Tensor],
    boxes: Tensor,
    labels: Tensor,
    image_index: Tensor,
    image_size: list[int],
    classes: int,
    *options: Any,
) -> Tensor:
    """The gradient of the vectors, (K, C)."""
    batch, channels = grads[0].shape[:2]
    sizes = [(grad.shape[2], grad.shape[3]) for grad in grads]
    drawing = drawing_of(
        boxes, labels, image_index, image_size, sizes, batch, classes, *options
    )  # fmt: skip
    first, strips = tiles_of(sizes, TILE_CELLS * STRIP_TILES)
    partials = grads[0].new_empty(strips, classes, channels, dtype=torch.float32)
    if partials.numel():
        kernels.embed_backward_kernel[(strips * classes * triton.cdiv(channels, CHANNELS),)](
            tuple(grad.contiguous() for grad in grads), partials, *drawing[1:5], *sides(sizes),
            first, len(boxes), batch, classes, channels, **drawing.constants, CHANNELS=CHANNELS,
            BLOCK=TILE_CELLS, TILES=STRIP_TILES,
        )  # fmt: skip
    return partials.sum(0).to(grads[0].dtype)

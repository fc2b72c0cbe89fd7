"""Runs the Triton kernels of the box operators in Triton's interpreter against the reference.

A program of its own: the interpreter is chosen by TRITON_INTERPRET=1 before Triton is imported.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from sssd.ops.box_kernels import COMBINES, PROFILES, flat
from sssd.ops.objects import assigned_levels
from sssd.ops.reference import boxes as reference
from sssd.ops.reference import heatmap as reference_heatmap
from sssd.ops.triton import boxes as fused
from tests.ops.box_cases import FORMATS, IMAGE_SIZE, objects
from tests.ops.test_boxes_geometry import KINDS, boxes_of_kind

BATCH, CLASSES = 2, 3
LEVELS = [(7, 11), (3, 5), (1, 1)]
WIDE = [(11, 17), (1, 1), (2, 150)]  # several tiles, one cell, a row of several tiles
# The interpreter truncates to bfloat16 where a device rounds.
TOLERANCE = {torch.float32: 4e-6, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}


def close(ours: Sequence[Tensor], exact: Sequence[Tensor], dtype: torch.dtype) -> None:
    """Of one dtype and shape, and near enough to float64."""
    for mine, theirs in zip(ours, exact, strict=True):
        assert mine.dtype == dtype
        error, size = (mine.double() - theirs).abs(), theirs.abs().clamp(min=1)
        assert (error <= TOLERANCE[dtype] * size).all(), (error / size).max()


def scene(count: int) -> tuple[Tensor, Tensor]:
    """Some objects, one of which is not usable."""
    boxes, index = objects(count, BATCH)
    boxes[1, 0] = torch.nan
    return boxes, index


def check_pool_and_paint() -> None:
    """Every dtype and format; vectors shared by the levels and one set each; sums and means."""
    boxes, index = scene(5)
    index[3:] = torch.tensor([-1, BATCH])  # in no image
    kept = boxes.masked_fill(((index < 0) | (index >= BATCH))[:, None], torch.nan)
    for case, (dtype, form) in enumerate(itertools.product(TOLERANCE, FORMATS)):
        mean, channels = case % 2 == 0, (5, 18)[case // 2 % 2]
        generator = torch.Generator().manual_seed(case)
        levels = [
            torch.randn(BATCH, channels, *shape, generator=generator).to(dtype)
            .contiguous(memory_format=form) for shape in LEVELS
        ]  # fmt: skip
        pooled = fused.box_pool(levels, boxes, index, list(IMAGE_SIZE), mean)
        wide = [level.double() for level in levels]
        close(pooled, reference.pool_boxes(wide, kept, index, IMAGE_SIZE, mean=mean), dtype)
        shape = (len(LEVELS), 5, channels) if case % 3 else (5, channels)
        values = torch.rand(shape, generator=generator).to(dtype)
        last = [int(form == torch.channels_last)] * len(LEVELS)
        painted = fused.box_paint(
            values, boxes, index, list(IMAGE_SIZE), flat(LEVELS), BATCH, last, mean
        )
        exact = reference.paint_boxes(
            values.double(), boxes, index, IMAGE_SIZE, LEVELS, BATCH, mean=mean
        )
        close(painted, exact, dtype)
        assert all(level.is_contiguous(memory_format=form) for level in painted)


def check_formats_and_tiles() -> None:
    """Levels of either format in one call, several tiles; what no box touches is never read."""
    boxes, index = scene(6)
    values = torch.rand(len(WIDE), 6, 7)
    painted = fused.box_paint(
        values, boxes, index.int(), list(IMAGE_SIZE), flat(WIDE), BATCH, [0, 1, 1], False
    )
    exact = reference.paint_boxes(values.double(), boxes, index, IMAGE_SIZE, WIDE, BATCH)
    close(painted, exact, torch.float32)
    covered = reference.paint_boxes(torch.ones(6, 7), boxes, index, IMAGE_SIZE, WIDE, BATCH)
    levels = [x.masked_fill(area == 0, torch.nan) for x, area in zip(painted, covered, strict=True)]
    pooled = fused.box_pool(levels, boxes.double(), index, list(IMAGE_SIZE), True)
    wide = [level.double() for level in painted]
    close(pooled, reference.pool_boxes(wide, boxes, index, IMAGE_SIZE), torch.float32)


def check_nothing() -> None:
    """No objects, no images, no cells."""
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    size = list(IMAGE_SIZE)
    levels = [torch.ones(BATCH, 3, *shape) for shape in LEVELS]
    assert fused.box_pool(levels, *none, size, True).shape == (len(LEVELS), 0, 3)
    for batch in (0, BATCH):
        painted = fused.box_paint(
            torch.ones(0, 3), *none, size, flat(LEVELS), batch, [0] * len(LEVELS), False
        )
        assert [level.shape for level in painted] == [(batch, 3, *shape) for shape in LEVELS]
        assert all((level == 0).all() for level in painted)
    boxes, index = scene(3)
    empty = [(0, 5), (5, 0), (2, 2)]
    levels = [torch.ones(BATCH, 3, *shape) for shape in empty]
    assert (fused.box_pool(levels, boxes, index, size, True)[:2] == 0).all()
    heat = fused.label_heatmap(
        boxes, index, index, size, flat(empty), BATCH, CLASSES, 1, 0, 0.7, None, None, boxes
    )
    assert [level.shape for level in heat] == [(BATCH, CLASSES, *shape) for shape in empty]


def check_heatmaps() -> None:
    """Profiles, combinations and options."""
    boxes, index = scene(8)
    labels = torch.tensor([0, 2, 2, 2, 0, 0, 2, 2])  # nothing of class 1; classes meet in tiles
    shown = assigned_levels(boxes, IMAGE_SIZE, WIDE, [(0, 60), (0, 1e4), (30, 1e4)])
    generator = torch.Generator().manual_seed(0)
    strength = torch.rand(8, generator=generator)
    where = (boxes, labels, index, list(IMAGE_SIZE))
    for case, profile in enumerate(("box", "pyramid", "pyramid", "gaussian", "gaussian_legacy")):
        combine, dtype = COMBINES[case % 2], list(TOLERANCE)[case % 3]
        assigned, factor = (None, None) if case % 2 else (shown, strength)
        options = (PROFILES.index(profile), case % 2, 0.7, assigned, factor)
        exact = reference_heatmap.label_heatmap(
            boxes, labels, index, IMAGE_SIZE, WIDE, BATCH, CLASSES, profile=profile,
            combine=combine, assigned=assigned, min_overlap=0.7, strength=factor,
            dtype=torch.float64,
        )  # fmt: skip
        like = torch.empty(0, dtype=dtype)
        heat = fused.label_heatmap(*where, flat(WIDE), BATCH, CLASSES, *options, like)
        close(heat, exact, dtype)


def check_every_kind_of_box() -> None:
    """One object a heatmap, huge ones and those that are not finite too."""
    image_size, shapes = (320, 416), [(40, 52), (10, 13)]
    boxes = torch.cat([boxes_of_kind(kind, 2, image_size, len(kind) + 1) for kind in KINDS])
    none, classes = torch.zeros(len(boxes), dtype=torch.int64), torch.arange(len(boxes))
    for profile in ("pyramid", "gaussian"):
        ours = fused.label_heatmap(
            boxes, classes, none, list(image_size), flat(shapes), 1, len(boxes),
            PROFILES.index(profile), 0, 0.7, None, None, torch.empty(0),
        )  # fmt: skip
        exact = reference_heatmap.label_heatmap(
            boxes, classes, none, image_size, shapes, 1, len(boxes), profile=profile,
            combine="max", assigned=None, min_overlap=0.7, strength=None, dtype=torch.float64,
        )  # fmt: skip
        close(ours, exact, torch.float32)


def main() -> None:
    """Run all of it, in few programs: the interpreter takes a millisecond an operation."""
    fused.CHANNELS = 16
    check_pool_and_paint()
    check_nothing()
    check_formats_and_tiles()
    check_heatmaps()
    fused.HEATMAP_CELLS = 2048
    check_every_kind_of_box()
    print("interpreted")


if __name__ == "__main__":
    main()

"""The CUDA kernels of the box operators, run on the CPU, against the float64 reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sssd.ops import paint_boxes
from tests.kernels import host_boxes
from tests.ops import box_accuracy as accuracy
from tests.ops.rounding import half_ulp
from tests.ops.test_boxes_geometry import KINDS, boxes_of_kind
from tests.pairwise import pairwise

IMAGE_SIZE = (96, 352)
SHAPES = [(12, 44), (7, 33), (3, 5), (1, 1)]  # more than a tile, odd, less than a tile, one cell
FORMATS = [torch.contiguous_format, torch.channels_last]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def objects(count: int, batch: int) -> tuple[Tensor, Tensor]:
    """Boxes of all sizes; some beyond the border, some not usable, one in no image."""
    generator = torch.Generator().manual_seed(count)
    size = torch.tensor([IMAGE_SIZE[1], IMAGE_SIZE[0]])
    centre = torch.rand(count, 2, generator=generator) * size
    half = torch.rand(count, 2, generator=generator) ** 2 * size / 2
    boxes = torch.cat([centre - half, centre + half], dim=1)
    boxes[::11, 0] = float("nan")
    boxes[3::13, 2] = boxes[3::13, 0]
    return boxes, torch.randint(0, batch, (count,), generator=generator)


def maps(batch: int, channels: int, dtype: torch.dtype, form: torch.memory_format) -> list[Tensor]:
    generator = torch.Generator().manual_seed(channels)
    return [
        torch.randn(batch, channels, *shape, generator=generator).to(dtype).contiguous(
            memory_format=form
        )
        for shape in SHAPES
    ]  # fmt: skip


@pairwise(channels__count=[(40, 30), (3, 9), (32, 1)], dtype=DTYPES, memory_format=FORMATS)
def test_pool(boxes_module, memory_format, dtype, channels, count):
    boxes, index = objects(count, 2)
    levels = maps(2, channels, dtype, memory_format)
    for mean in (True, False):
        ours = host_boxes.pool(boxes_module, levels, boxes, index, IMAGE_SIZE, mean=mean)
        accuracy.check_pool(ours, levels, boxes, index, IMAGE_SIZE, mean=mean)


@pairwise(
    channels__count=[(40, 30), (3, 300), (32, 0), (37, 8)], dtype=DTYPES, memory_format=FORMATS
)
def test_paint(boxes_module, memory_format, dtype, channels, count):
    boxes, index = objects(count, 2)
    where = (boxes, index, IMAGE_SIZE)
    for shape, mean in (((count, channels), False), ((len(SHAPES), count, channels), True)):
        values = torch.randn(shape).to(dtype)
        ours = host_boxes.paint(
            boxes_module, values, *where, SHAPES, 2, memory_format=memory_format, mean=mean
        )
        accuracy.check_paint(ours, values, *where, mean=mean)


@pairwise(profile=accuracy.PROFILE, combine=["max", "sum"], dtype=DTYPES, classes=[3, 8, 19])
def test_heatmap(boxes_module, profile, combine, dtype, classes):
    boxes, index = objects(60, 2)
    labels = torch.arange(60) % (classes + 1) - torch.arange(60) % 2  # some are no class's
    options = {"profile": profile, "combine": combine, "strength": torch.rand(60)}
    arguments = (boxes, labels, index, IMAGE_SIZE, SHAPES, 2, classes)
    ours = host_boxes.heatmap(boxes_module, *arguments, **options, dtype=dtype)
    accuracy.check_heatmap(ours, *arguments, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_box_covers_the_cells_of_the_reference(boxes_module, kind):
    for dtype in (torch.float32, torch.float64):
        boxes = boxes_of_kind(kind, 300, IMAGE_SIZE, len(kind)).to(dtype)
        none, where = torch.zeros(300, dtype=torch.int64), torch.arange(300)
        bits = 2.0 ** (where[:, None] % 20)  # sums below 2^24: exact, and they tell who is in them
        ours = host_boxes.paint(boxes_module, bits, boxes, where % 16, IMAGE_SIZE, SHAPES, 16)
        exact = paint_boxes(bits, boxes, where % 16, IMAGE_SIZE, SHAPES, 16, backend="reference")
        assert all(torch.equal(a, b) for a, b in zip(ours, exact, strict=True))
        for profile in ("pyramid", "gaussian"):
            given = (boxes[:20], none[:20], where[:20], IMAGE_SIZE, SHAPES, 20, 1)
            heat = host_boxes.heatmap(boxes_module, *given, profile=profile)
            accuracy.check_heatmap(heat, *given, profile=profile, combine="max")


FAULTS = {
    # Off by 1e-4, and by one and a half of the distance of neighbours.
    torch.float32: lambda x: x.double() * (1 + 1e-4),
    torch.bfloat16: lambda x: x.double() + 3 * half_ulp(x.double(), torch.bfloat16),
    torch.float16: lambda x: x.double() + 3 * half_ulp(x.double(), torch.float16),
}


@pytest.mark.parametrize("dtype", FAULTS)
def test_every_check_sees_a_small_fault(boxes_module, dtype):
    """What the kernels give passes; off by what a comfortable tolerance lets by it fails."""
    boxes, index = objects(40, 2)
    labels = torch.arange(40) % 3
    values = torch.randn(40, 8).to(dtype)
    levels = maps(2, 8, dtype, torch.contiguous_format)
    where = (boxes, index, IMAGE_SIZE)
    drawing = (boxes, labels, index, IMAGE_SIZE, SHAPES, 2)
    options = {"profile": "gaussian", "combine": "sum"}
    pooled = host_boxes.pool(boxes_module, levels, *where)
    painted = host_boxes.paint(boxes_module, values, *where, SHAPES, 2)
    heat = host_boxes.heatmap(boxes_module, *drawing, 3, dtype=dtype, **options)
    checks = [
        (lambda x: accuracy.check_pool(x[0], levels, *where), [pooled]),
        (lambda x: accuracy.check_paint(x, values, *where), painted),
        (lambda x: accuracy.check_heatmap(x, *drawing, 3, **options), heat),
    ]  # fmt: skip
    for check, right in checks:
        check(right)
        with pytest.raises(AssertionError, match="in float64: off by"):
            check([FAULTS[dtype](x).to(dtype) for x in right])


@pytest.mark.parametrize("corner", [1e20, 1e300])
def test_the_largest_boxes_are_drawn(boxes_module, corner):
    boxes = torch.tensor([[-corner, -corner, corner, corner]], dtype=torch.float64)
    none = torch.zeros(1, dtype=torch.int64)
    heat = host_boxes.heatmap(
        boxes_module, boxes, none, none, IMAGE_SIZE, SHAPES, 1, 1, profile="pyramid"
    )
    assert all((level == 1).all() for level in heat)


def test_an_object_in_no_image_pools_to_zero_and_paints_nothing(boxes_module):
    boxes = torch.tensor([[0.0, 0.0, 352.0, 96.0]] * 3)
    index = torch.tensor([-1, 2, 1 << 40])
    levels = maps(2, 4, torch.float32, torch.contiguous_format)
    assert (host_boxes.pool(boxes_module, levels, boxes, index, IMAGE_SIZE) == 0).all()
    values = torch.ones(3, 4)
    painted = host_boxes.paint(boxes_module, values, boxes, index, IMAGE_SIZE, SHAPES, 2)
    assert all((level == 0).all() for level in painted)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_two_launches_any_block_order_and_coalesced_traffic(boxes_module, memory_format):
    boxes, index = objects(40, 2)
    shapes = [(24, 64), (12, 32)]
    values = torch.rand(40, 64)
    results = []
    for reverse in (False, True):
        boxes_module.play(reverse=reverse, counting=True)
        results.append(
            host_boxes.paint(
                boxes_module, values, boxes, index, IMAGE_SIZE, shapes, 2,
                memory_format=memory_format,
            )
        )  # fmt: skip
        traffic = boxes_module.traffic()
    boxes_module.play()
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert traffic["launches"] == 2
    spans = len(shapes) * len(boxes) * 16
    cells = sum(level.numel() * 4 for level in results[0])
    assert traffic["store_bytes"] == spans + cells  # once each
    # A warp writes rows of 128 bytes, or whole groups of channels of neighbouring cells.
    assert traffic["store_sectors"] == traffic["store_ideal"]


def test_more_objects_than_one_round_keep_their_order(boxes_module):
    count = 700
    boxes = torch.tensor([[0.0, 0.0, 352.0, 96.0]]).repeat(count, 1)
    index = torch.zeros(count, dtype=torch.int64)
    index[::3] = 1
    values = torch.rand(count, 4) * 10.0 ** torch.randint(-3, 4, (count, 1))
    painted = host_boxes.paint(boxes_module, values, boxes, index, IMAGE_SIZE, [(2, 3)], 2)[0]
    for image in (0, 1):
        total = torch.zeros(4)
        for value in values[index == image]:
            total += value
        assert torch.equal(painted[image, :, 0, 0], total)

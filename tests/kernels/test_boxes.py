"""The CUDA kernels of the box operators, run on the CPU, against the float64 reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sssd.ops import embedded_label_heatmap, label_heatmap, paint_boxes, pool_boxes

from . import host_boxes

IMAGE_SIZE = (96, 352)
SHAPES = [(12, 44), (7, 33), (3, 5), (1, 1)]  # more than a tile, odd, less than a tile, one cell
FORMATS = [torch.contiguous_format, torch.channels_last]
TOLERANCE = {torch.float32: 4e-6, torch.bfloat16: 8e-2, torch.float16: 1e-2}


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


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("channels", "count"), [(40, 30), (3, 9), (32, 1)])
def test_pool(boxes_module, memory_format, dtype, channels, count):
    boxes, index = objects(count, 2)
    levels = maps(2, channels, dtype, memory_format)
    ours = host_boxes.pool(boxes_module, levels, boxes, index, IMAGE_SIZE)
    exact = pool_boxes([x.double() for x in levels], boxes, index, IMAGE_SIZE, backend="reference")
    torch.testing.assert_close(ours.double(), exact, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("channels", "count"), [(40, 30), (3, 300), (32, 0), (37, 8)])
def test_paint(boxes_module, memory_format, dtype, channels, count):
    boxes, index = objects(count, 2)
    for values in (torch.rand(count, channels), torch.rand(len(SHAPES), count, channels)):
        values = values.to(dtype)
        ours = host_boxes.paint(
            boxes_module, values, boxes, index, IMAGE_SIZE, SHAPES, 2, memory_format=memory_format
        )
        exact = paint_boxes(
            values.double(), boxes, index, IMAGE_SIZE, SHAPES, 2, backend="reference"
        )
        for level, wanted in zip(ours, exact, strict=True):
            torch.testing.assert_close(
                level.double(), wanted, atol=4 * TOLERANCE[dtype], rtol=TOLERANCE[dtype]
            )


@pytest.mark.parametrize("profile", ["box", "pyramid", "gaussian", "gaussian_legacy"])
@pytest.mark.parametrize("combine", ["max", "sum"])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_heatmap(boxes_module, profile, combine, dtype):
    boxes, index = objects(60, 2)
    labels = torch.arange(60) % 3
    options = {"profile": profile, "combine": combine, "strength": torch.rand(60)}
    arguments = (boxes, labels, index, IMAGE_SIZE, SHAPES, 2, 3)
    ours = host_boxes.heatmap(boxes_module, *arguments, **options, dtype=dtype)
    exact = label_heatmap(*arguments, **options, dtype=torch.float64, backend="reference")
    for level, wanted in zip(ours, exact, strict=True):
        torch.testing.assert_close(
            level.double(), wanted, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
        )


@pytest.mark.parametrize("profile", ["box", "pyramid", "gaussian"])
@pytest.mark.parametrize("combine", ["max", "sum"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("channels", "count"), [(37, 60), (32, 2), (3, 0)])
def test_embedded_heatmap_and_its_gradient(boxes_module, profile, combine, dtype, channels, count):
    boxes, index = objects(count, 2)
    labels = torch.arange(count) * 5 % 7  # in no order; of 9 classes two have no object
    options = {"profile": profile, "combine": combine, "strength": torch.rand(count)}
    table = torch.rand(9, channels).to(dtype)
    where = (boxes, labels, index, IMAGE_SIZE)
    ours = host_boxes.embed(boxes_module, table, *where, SHAPES, 2, **options)
    exact_table = table.double().requires_grad_()
    exact = embedded_label_heatmap(exact_table, *where, SHAPES, 2, **options, backend="reference")
    for level, wanted in zip(ours, exact, strict=True):
        torch.testing.assert_close(
            level.double(), wanted.detach(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
        )
    grads = [torch.randn_like(level) for level in ours]
    (wanted,) = torch.autograd.grad(exact, exact_table, [grad.double() for grad in grads])
    grad = host_boxes.embed_backward(boxes_module, grads, *where, 9, **options)
    error, size = (grad.double() - wanted).norm(), wanted.norm()
    assert error <= TOLERANCE[dtype] / 4 * size
    drawn = (wanted != 0).any(1)  # classes; one sum of a drawn class may be 0 by chance
    assert (grad[~drawn] == 0).all()


def test_embedded_heatmap_of_more_objects_than_one_round(boxes_module):
    boxes, index = objects(700, 2)
    labels, table = torch.arange(700) % 2, torch.rand(2, 5)
    where = (boxes, labels, index, IMAGE_SIZE)
    ours = host_boxes.embed(boxes_module, table, *where, SHAPES, 2)
    exact = embedded_label_heatmap(table.double(), *where, SHAPES, 2, backend="reference")
    for level, wanted in zip(ours, exact, strict=True):
        torch.testing.assert_close(level.double(), wanted, atol=1e-5, rtol=1e-5)


def test_the_gradient_of_the_vectors_reads_no_cell_without_heat(boxes_module):
    boxes = torch.tensor([[80.0, 20.0, 200.0, 70.0], [0.0, 0.0, 90.0, 30.0]])
    where = (boxes, torch.tensor([1, 0]), torch.tensor([1, 0]), IMAGE_SIZE)
    heat = label_heatmap(*where, SHAPES, 2, 2, profile="pyramid")
    grads = [torch.ones(2, 3, *shape) for shape in SHAPES]
    clean = host_boxes.embed_backward(boxes_module, grads, *where, 2)
    for grad, level in zip(grads, heat, strict=True):
        grad.masked_fill_(level.sum(1, keepdim=True) == 0, float("nan"))
    boxes_module.play(reverse=True, counting=True)
    assert torch.equal(host_boxes.embed_backward(boxes_module, grads, *where, 2), clean)
    assert boxes_module.traffic()["launches"] == 2
    boxes_module.play()


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
def test_one_launch_any_block_order_and_coalesced_traffic(boxes_module, memory_format):
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
    assert traffic["launches"] == 1
    assert traffic["store_bytes"] == sum(level.numel() * 4 for level in results[0])  # once each
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

"""Pool and paint: every backend, dtype and memory format against plain loops."""

from __future__ import annotations

import pytest
import torch

from sssd.ops import paint_boxes, pool_boxes
from tests.ops import box_accuracy as accuracy
from tests.ops.box_cases import (
    BACKENDS,
    DTYPES,
    FORMATS,
    IMAGE_SIZE,
    SHAPES,
    expected_paint,
    expected_pool,
    maps,
    needs_library,
    objects,
)
from tests.pairwise import pairwise


@pairwise(
    backend=BACKENDS,
    dtype=DTYPES,
    memory_format=FORMATS,
    channels__count=[(1, 9), (16, 40), (37, 12), (352, 3)],
)
def test_values(backend, dtype, memory_format, channels, count):
    """In float64 against loops, in the others within the error analysis of box_accuracy.py."""
    boxes, index = objects(count, batch=3, seed=channels)
    levels = maps(3, channels, dtype, memory_format)
    where = (boxes, index, IMAGE_SIZE)
    pooled = pool_boxes(levels, *where, backend=backend)
    if dtype == torch.float64:
        expected = expected_pool(levels, boxes, index)
        torch.testing.assert_close(pooled, expected, atol=1e-12, rtol=0)
    else:
        accuracy.check_pool(pooled, levels, *where)
    for values in (torch.randn(count, channels), torch.randn(len(SHAPES), count, channels)):
        values = values.to(dtype)
        painted = paint_boxes(
            values, *where, SHAPES, 3, memory_format=memory_format, backend=backend
        )
        assert all(level.is_contiguous(memory_format=memory_format) for level in painted)
        if dtype == torch.float64:
            loops = expected_paint(values, boxes, index, 3)
            torch.testing.assert_close(painted, loops, atol=1e-11, rtol=0)
        else:
            accuracy.check_paint(painted, values, *where)


@pairwise(
    backend=BACKENDS,
    boxes_dtype=[torch.float32, torch.float64],
    index_dtype=[torch.int32, torch.int64],
)
def test_kinds_of_objects(backend, boxes_dtype, index_dtype):
    boxes, index = objects(20, batch=2)
    levels = maps(2, 5)
    pooled = pool_boxes(
        levels, boxes.to(boxes_dtype), index.to(index_dtype), IMAGE_SIZE, backend=backend
    )
    torch.testing.assert_close(pooled, expected_pool(levels, boxes, index), atol=1e-12, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_whole_image_and_huge_boxes_cover_every_cell(backend):
    boxes = torch.tensor([[0.0, 0.0, 160.0, 96.0], [-3e38, -1e30, 3e38, 1e30]])
    index = torch.tensor([0, 1])
    painted = paint_boxes(torch.ones(2, 1), boxes, index, IMAGE_SIZE, SHAPES, 2, backend=backend)
    assert all((level == 1).all() for level in painted)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_no_objects_no_images_no_cells(backend, memory_format):
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    levels = [level.requires_grad_() for level in maps(2, 6, torch.float32, memory_format)]
    pooled = pool_boxes(levels, *none, IMAGE_SIZE, backend=backend)
    assert pooled.shape == (len(SHAPES), 0, 6)
    pooled.sum().backward()
    assert all((level.grad == 0).all() for level in levels)
    painted = paint_boxes(torch.ones(0, 6), *none, IMAGE_SIZE, SHAPES, 2, backend=backend)
    assert all((level == 0).all() for level in painted)
    painted = paint_boxes(torch.ones(0, 6), *none, IMAGE_SIZE, SHAPES, 0, backend=backend)
    assert [level.shape for level in painted] == [(0, 6, *shape) for shape in SHAPES]
    boxes, index = objects(4, 2)
    empty = [torch.zeros(2, 6, 0, 5), torch.zeros(2, 6, 5, 0)]
    assert (pool_boxes(empty, boxes, index, IMAGE_SIZE, backend=backend) == 0).all()
    painted = paint_boxes(
        torch.ones(4, 6), boxes, index, IMAGE_SIZE, [(0, 5), (5, 0)], 2, backend=backend
    )
    assert [level.shape[2:] for level in painted] == [(0, 5), (5, 0)]


@needs_library
@pytest.mark.parametrize("memory_format", FORMATS)
def test_the_number_of_threads_changes_no_bit(memory_format):
    boxes, index = objects(50, batch=2)
    levels = maps(2, 70, torch.float32, memory_format)
    values = torch.randn(50, 70)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            painted = paint_boxes(
                values, boxes, index, IMAGE_SIZE, SHAPES, 2, memory_format=memory_format
            )
            results.append([pool_boxes(levels, boxes, index, IMAGE_SIZE), *painted])
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@needs_library
def test_values_outside_the_boxes_are_never_read_into_a_sum():
    boxes = torch.tensor([[17.0, 17.0, 70.0, 70.0]])
    index = torch.tensor([0])
    for memory_format in FORMATS:
        levels = maps(1, 5, torch.float32, memory_format)
        clean = pool_boxes(levels, boxes, index, IMAGE_SIZE, backend="cpu")
        for level in levels:
            inside = paint_boxes(
                torch.ones(1, 1), boxes, index, IMAGE_SIZE, [tuple(level.shape[2:])], 1
            )[0][0, 0].bool()
            level.masked_fill_(~inside, float("nan"))
        assert torch.equal(pool_boxes(levels, boxes, index, IMAGE_SIZE, backend="cpu"), clean)


@needs_library
def test_maps_that_are_views_and_more_levels_than_one_launch_takes():
    boxes, index = objects(5, batch=2)
    wide = torch.randn(2, 8, 12, 40, dtype=torch.float64)
    views = [wide[:, ::2, :, ::2], wide[:, 4:, :, 5:25].transpose(2, 3)]
    expected = [view.contiguous() for view in views]
    for view, dense in zip(views, expected, strict=True):
        torch.testing.assert_close(
            pool_boxes([view], boxes, index, IMAGE_SIZE, backend="cpu"),
            expected_pool([dense], boxes, index),
        )
    levels = [torch.randn(2, 3, 2 + n, 5, dtype=torch.float64) for n in range(19)]
    torch.testing.assert_close(
        pool_boxes(levels, boxes, index, IMAGE_SIZE, backend="cpu"),
        expected_pool(levels, boxes, index),
    )


@needs_library
@pytest.mark.parametrize("memory_format", FORMATS)
def test_two_thousand_objects_in_one_image(memory_format):
    boxes, _ = objects(2000, batch=1)
    index = torch.full((2000,), 1)
    levels = [level.requires_grad_() for level in maps(3, 24, torch.float32, memory_format)]
    pooled = pool_boxes(levels, boxes, index, IMAGE_SIZE, backend="cpu")
    exact = pool_boxes(
        [level.double() for level in levels], boxes, index, IMAGE_SIZE, backend="cpu"
    )
    torch.testing.assert_close(pooled.double(), exact, atol=1e-6, rtol=1e-5)
    pooled.sum().backward()
    assert all((level.grad[0] == 0).all() and level.grad[1].any() for level in levels)

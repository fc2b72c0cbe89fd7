"""Pool and paint given what does not fit, and boxes that cover nothing."""

from __future__ import annotations

import pytest
import torch

from sssd.ops import paint_boxes, pool_boxes
from tests.ops.box_cases import (
    BACKENDS,
    IMAGE_SIZE,
    SHAPES,
    maps,
    needs_library,
    objects,
)


@pytest.mark.parametrize("backend", BACKENDS)
def test_degenerate_boxes_cover_nothing(backend):
    nan, infinity = float("nan"), float("inf")
    boxes = torch.tensor(
        [
            [nan, 0, 10, 10],
            [0, 0, infinity, 10],
            [-infinity, 0, 10, 10],
            [10, 10, 10, 50],  # no width
            [50, 50, 10, 10],  # inverted
            [-60, -60, -1, -1],  # outside
            [161, 97, 200, 200],
            [9, 9, 13, 13],  # between the points of the cells
        ]
    )
    index = torch.zeros(len(boxes), dtype=torch.int64)
    levels = [level + 100 for level in maps(1, 3)]
    assert pool_boxes(levels, boxes, index, IMAGE_SIZE, backend=backend).abs().max() == 0
    painted = paint_boxes(
        torch.ones(len(boxes), 3), boxes, index, IMAGE_SIZE, SHAPES, 1, backend=backend
    )
    assert all(level.abs().max() == 0 for level in painted)


def test_bad_input_names_the_argument_and_the_way_out():
    boxes, index = objects(3, batch=2)
    levels, values = maps(2, 4, torch.float32), torch.randn(3, 4)

    def pool(levels=levels, boxes=boxes, index=index, image_size=IMAGE_SIZE, **options):
        return pool_boxes(levels, boxes, index, image_size, **options)

    def paint(values=values, boxes=boxes, index=index, shapes=SHAPES, batch=2, **options):
        return paint_boxes(values, boxes, index, IMAGE_SIZE, shapes, batch, **options)

    cases = [
        (ValueError, "levels is empty", lambda: pool(levels=[])),
        (TypeError, r"levels\[1\] has shape", lambda: pool([levels[0], levels[1][0]])),
        (TypeError, "levels is a int", lambda: pool(levels=4)),
        (TypeError, r"levels\[0\] is a list", lambda: pool(levels=[levels])),
        (ValueError, r"levels\[1\] has \(B, C\)", lambda: pool([levels[0], levels[1][:, :3]])),
        (TypeError, r"levels\[1\] is torch.float64", lambda: pool([levels[0], levels[1].double()])),
        (TypeError, r"levels\[0\] is torch.int64", lambda: pool([levels[0].long()])),
        (ValueError, r"boxes has shape \(3, 5\)", lambda: pool(boxes=torch.rand(3, 5))),
        (TypeError, "boxes is torch.bfloat16.*boxes.float", lambda: pool(boxes=boxes.bfloat16())),
        (TypeError, "boxes is torch.int64", lambda: pool(boxes=boxes.long())),
        (ValueError, r"image_index has shape \(2,\)", lambda: pool(index=index[:2])),
        (TypeError, "image_index is torch.float32", lambda: pool(index=index.float())),
        (ValueError, "image_size is", lambda: pool(image_size=(0, 10))),
        (ValueError, "image_size is 16: expected", lambda: pool(image_size=16)),
        (ValueError, "image_size is .* whole numbers", lambda: pool(image_size=(64.0, 64.0))),
        (ValueError, "row 1: the first is 2", lambda: pool(index=torch.tensor([0, 2, 1]))),
        (ValueError, "rows 0, 2: the first is -1", lambda: paint(index=torch.tensor([-1, 0, -5]))),
        (ValueError, "the batch size is 1", lambda: paint(index=torch.tensor([0, 1, 0]), batch=1)),
        (ValueError, r"boxes has shape \(4,\)", lambda: paint(boxes=boxes[0])),
        (ValueError, r"values has shape \(2, 4\) for 3 boxes", lambda: paint(values[:2])),
        (ValueError, "values has 2 levels", lambda: paint(values.expand(2, 3, 4))),
        (TypeError, "values is torch.int64", lambda: paint(values.long())),
        (ValueError, "level_shapes is empty", lambda: paint(shapes=[])),
        (ValueError, r"level_shapes\[1\] is \(-1, 2\)", lambda: paint(shapes=[(1, 1), (-1, 2)])),
        (ValueError, r"level_shapes\[0\] is \(1.5, 2\).* whole", lambda: paint(shapes=[(1.5, 2)])),
        (ValueError, "batch_size is -1", lambda: paint(batch=-1)),
        (ValueError, "batch_size is 2.5: expected a whole", lambda: paint(batch=2.5)),
        (ValueError, "memory_format is", lambda: paint(memory_format=torch.preserve_format)),
        (ValueError, "backend is 'gpu'", lambda: pool(backend="gpu")),
    ]
    for error, message, call in cases:
        with pytest.raises(error, match=message):
            call()


def test_levels_are_taken_as_users_hold_them():
    boxes, index = objects(3, batch=2)
    levels = maps(2, 4, torch.float32)
    expected = pool_boxes(levels, boxes, index, IMAGE_SIZE)
    for held in (iter(levels), dict(zip("abcd", levels, strict=True))):
        assert torch.equal(pool_boxes(held, boxes, index, IMAGE_SIZE), expected)
    assert torch.equal(pool_boxes(levels[0], boxes, index, IMAGE_SIZE), expected[:1])
    painted = paint_boxes(torch.ones(3, 4), boxes, index, IMAGE_SIZE, iter(SHAPES), 2)
    assert len(painted) == len(SHAPES)


def test_other_device_is_refused():
    boxes, index = objects(3, batch=2)
    levels = [level.to("meta") for level in maps(2, 4)]
    with pytest.raises(ValueError, match=r"levels\[0\] is on meta but boxes is on cpu"):
        pool_boxes(levels, boxes, index, IMAGE_SIZE)
    with pytest.raises(ValueError, match="image_index is on meta but boxes is on cpu"):
        pool_boxes(maps(2, 4), boxes, index.to("meta"), IMAGE_SIZE)


def test_check_names_the_rows_that_are_not_finite():
    boxes, index = objects(4, batch=1)
    boxes[1, 2] = float("nan")
    boxes[3, 0] = float("inf")
    with pytest.raises(ValueError, match="boxes has non-finite values in rows 1, 3"):
        pool_boxes(maps(1, 2), boxes, index, IMAGE_SIZE, check=True)


@needs_library
def test_a_direct_call_with_bad_tensors_is_refused():
    boxes, index = objects(3, batch=2)
    levels = maps(2, 4, torch.float32)
    pool, paint = torch.ops.sssd.box_pool, torch.ops.sssd.box_paint
    size = list(IMAGE_SIZE)
    shapes = [side for shape in SHAPES for side in shape]
    cases = [
        lambda: pool(levels, boxes, index + 1, size, True),
        lambda: pool(levels, boxes[:2], index, size, True),
        lambda: pool(levels, boxes.half(), index, size, True),
        lambda: pool([levels[0], levels[1].double()], boxes, index, size, True),
        lambda: pool(levels, boxes, index, [0, 4], True),
        lambda: paint(torch.ones(2, 4), boxes, index, size, shapes, 2, [0] * 4, False),
        lambda: paint(torch.ones(3, 4), boxes, index, size, shapes[:3], 2, [0] * 4, False),
        lambda: paint(torch.ones(3, 4), boxes, index, size, shapes, 2, [0], False),
        lambda: paint(torch.ones(3, 4).long(), boxes, index, size, shapes, 2, [0] * 4, False),
    ]
    for call in cases:
        with pytest.raises(RuntimeError):
            call()

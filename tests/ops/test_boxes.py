"""Pool and paint: every backend, dtype and memory format against plain loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sssd.ops import paint_boxes, pool_boxes
from tests.ops.box_cases import (
    BACKENDS,
    FORMATS,
    IMAGE_SIZE,
    SHAPES,
    TOLERANCE,
    expected_paint,
    expected_pool,
    maps,
    needs_library,
    objects,
)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(("channels", "count"), [(1, 9), (16, 40), (37, 12), (352, 3)])
def test_values(backend, dtype, memory_format, channels, count):
    boxes, index = objects(count, batch=3, seed=channels)
    levels = maps(3, channels, dtype, memory_format)
    pooled = pool_boxes(levels, boxes, index, IMAGE_SIZE, backend=backend)
    assert pooled.dtype == dtype
    torch.testing.assert_close(
        pooled.double(), expected_pool(levels, boxes, index), atol=TOLERANCE[dtype], rtol=0
    )
    for values in (torch.randn(count, channels), torch.randn(len(SHAPES), count, channels)):
        values = values.to(dtype)
        painted = paint_boxes(
            values,
            boxes,
            index,
            IMAGE_SIZE,
            SHAPES,
            3,
            memory_format=memory_format,
            backend=backend,
        )
        expected = expected_paint(values, boxes, index, 3)
        for level, wanted in zip(painted, expected, strict=True):
            assert level.dtype == dtype
            assert level.is_contiguous(memory_format=memory_format)
            torch.testing.assert_close(level.double(), wanted, atol=8 * TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("boxes_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_kinds_of_objects(backend, boxes_dtype, index_dtype):
    boxes, index = objects(20, batch=2)
    levels = maps(2, 5)
    pooled = pool_boxes(
        levels, boxes.to(boxes_dtype), index.to(index_dtype), IMAGE_SIZE, backend=backend
    )
    torch.testing.assert_close(pooled, expected_pool(levels, boxes, index), atol=1e-12, rtol=0)


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


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_gradients_are_exact(backend, memory_format):
    boxes, index = objects(6, batch=2)
    levels = [level.requires_grad_() for level in maps(2, 3, memory_format=memory_format)]
    values = torch.randn(len(SHAPES), 6, 3, dtype=torch.float64, requires_grad=True)

    def pool(*levels: Tensor) -> Tensor:
        return pool_boxes(levels, boxes, index, IMAGE_SIZE, backend=backend)

    def paint(values: Tensor) -> list[Tensor]:
        return paint_boxes(values, boxes, index, IMAGE_SIZE, SHAPES, 2, backend=backend)

    assert torch.autograd.gradcheck(pool, levels, fast_mode=True)
    assert torch.autograd.gradcheck(paint, values)
    assert torch.autograd.gradcheck(paint, values[0].detach().requires_grad_())
    assert torch.autograd.gradgradcheck(pool, levels, fast_mode=True)
    pool(*levels).square().sum().backward()
    assert all(level.grad.is_contiguous(memory_format=memory_format) for level in levels)


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_levels_that_ask_get_a_gradient(backend):
    boxes, index = objects(6, batch=2)
    levels = maps(2, 3)
    levels[1].requires_grad_()
    pooled = pool_boxes(levels, boxes, index, IMAGE_SIZE, backend=backend)
    pooled.sum().backward()
    assert [level.grad is not None for level in levels] == [False, True, False, False]
    values = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    painted = paint_boxes(values, boxes, index, IMAGE_SIZE, SHAPES, 2, backend=backend)
    painted[2].sum().backward()
    area = expected_paint(torch.ones(6, 1), boxes, index, 2)[2].sum()
    torch.testing.assert_close(values.grad[:, 0].sum(), area)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_pool_and_paint_are_adjoint_up_to_the_area(backend, memory_format):
    boxes, index = objects(30, batch=2)
    levels = maps(2, 20, memory_format=memory_format)
    values = torch.randn(len(SHAPES), 30, 20, dtype=torch.float64)
    ones = torch.ones(30, 1, dtype=torch.float64)
    area = torch.stack(
        [
            torch.stack([level.sum() for level in paint_boxes(one, box, i, IMAGE_SIZE, SHAPES, 2)])
            for one, box, i in zip(ones.split(1), boxes.split(1), index.split(1), strict=True)
        ],
        dim=1,
    )  # (P, T)
    pooled = pool_boxes(levels, boxes, index, IMAGE_SIZE, backend=backend)
    painted = paint_boxes(values, boxes, index, IMAGE_SIZE, SHAPES, 2, backend=backend)
    inner_pool = (pooled * area[..., None] * values).sum()
    inner_paint = sum((level * p).sum() for level, p in zip(levels, painted, strict=True))
    torch.testing.assert_close(inner_pool, inner_paint)


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


@needs_library
def test_opcheck():
    boxes, index = objects(7, batch=2)
    for memory_format in FORMATS:
        levels = [level.requires_grad_() for level in maps(2, 5, memory_format=memory_format)]
        arguments = (levels, boxes, index, list(IMAGE_SIZE), True)
        torch.library.opcheck(torch.ops.sssd.box_pool.default, arguments)
        last = int(memory_format == torch.channels_last)
        for values in (torch.randn(7, 5), torch.randn(len(SHAPES), 7, 5)):
            shapes = [side for shape in SHAPES for side in shape]
            arguments = (
                values.requires_grad_(), boxes, index, list(IMAGE_SIZE), shapes, 2,
                [last] * len(SHAPES), False,
            )  # fmt: skip
            torch.library.opcheck(torch.ops.sssd.box_paint.default, arguments)


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_in_one_graph(backend):
    boxes, index = objects(7, batch=2)
    levels = maps(2, 5, torch.float32)

    def step(levels: list[Tensor], boxes: Tensor, index: Tensor) -> list[Tensor]:
        pooled = pool_boxes(levels, boxes, index, IMAGE_SIZE, backend=backend)
        return paint_boxes(pooled, boxes, index, IMAGE_SIZE, SHAPES, 2, backend=backend)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for ours, eager in zip(compiled(levels, boxes, index), step(levels, boxes, index), strict=True):
        torch.testing.assert_close(ours, eager)
    with pytest.raises(RuntimeError, match=r"image_index has a value outside 0 \.\. 1"):
        compiled(levels, boxes, index + 1)


def test_bad_input_names_the_argument_and_the_way_out():
    boxes, index = objects(3, batch=2)
    levels, values = maps(2, 4, torch.float32), torch.randn(3, 4)

    def pool(levels=levels, boxes=boxes, index=index, image_size=IMAGE_SIZE, **options):
        return pool_boxes(levels, boxes, index, image_size, **options)

    def paint(values=values, boxes=boxes, index=index, shapes=SHAPES, batch=2, **options):
        return paint_boxes(values, boxes, index, IMAGE_SIZE, shapes, batch, **options)

    cases = [
        (ValueError, "levels is empty", lambda: pool(levels=[])),
        (ValueError, r"levels\[1\] has shape", lambda: pool([levels[0], levels[1][0]])),
        (ValueError, r"levels\[1\] has \(B, C\)", lambda: pool([levels[0], levels[1][:, :3]])),
        (TypeError, r"levels\[1\] is torch.float64", lambda: pool([levels[0], levels[1].double()])),
        (TypeError, r"levels\[0\] is torch.int64", lambda: pool([levels[0].long()])),
        (ValueError, r"boxes has shape \(3, 5\)", lambda: pool(boxes=torch.rand(3, 5))),
        (TypeError, "boxes is torch.bfloat16.*boxes.float", lambda: pool(boxes=boxes.bfloat16())),
        (TypeError, "boxes is torch.int64", lambda: pool(boxes=boxes.long())),
        (ValueError, r"image_index has shape \(2,\)", lambda: pool(index=index[:2])),
        (TypeError, "image_index is torch.float32", lambda: pool(index=index.float())),
        (ValueError, "image_size is", lambda: pool(image_size=(0, 10))),
        (ValueError, "row 1: the first is 2", lambda: pool(index=torch.tensor([0, 2, 1]))),
        (ValueError, "rows 0, 2: the first is -1", lambda: paint(index=torch.tensor([-1, 0, -5]))),
        (ValueError, "the batch size is 1", lambda: paint(index=torch.tensor([0, 1, 0]), batch=1)),
        (ValueError, r"boxes has shape \(4,\)", lambda: paint(boxes=boxes[0])),
        (ValueError, r"values has shape \(2, 4\) for 3 boxes", lambda: paint(values[:2])),
        (ValueError, "values has 2 levels", lambda: paint(values.expand(2, 3, 4))),
        (TypeError, "values is torch.int64", lambda: paint(values.long())),
        (ValueError, "level_shapes is empty", lambda: paint(shapes=[])),
        (ValueError, r"level_shapes\[1\] is \(-1, 2\)", lambda: paint(shapes=[(1, 1), (-1, 2)])),
        (ValueError, "batch_size is -1", lambda: paint(batch=-1)),
        (ValueError, "memory_format is", lambda: paint(memory_format=torch.preserve_format)),
        (ValueError, "backend is 'gpu'", lambda: pool(backend="gpu")),
    ]
    for error, message, call in cases:
        with pytest.raises(error, match=message):
            call()


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

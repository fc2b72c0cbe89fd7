"""Pool and paint as torch sees them: gradients, opcheck, torch.compile."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sssd.ops import label_heatmap, paint_boxes, pool_boxes
from tests.ops.box_cases import (
    BACKENDS,
    FORMATS,
    IMAGE_SIZE,
    SHAPES,
    expected_paint,
    maps,
    needs_library,
    objects,
)


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
def test_autocast_changes_nothing(backend):
    boxes, index = objects(20, batch=2)
    levels, values = maps(2, 5, torch.float32), torch.randn(20, 5)

    def both() -> list[Tensor]:
        pooled = pool_boxes(levels, boxes, index, IMAGE_SIZE, backend=backend)
        painted = paint_boxes(values, boxes, index, IMAGE_SIZE, SHAPES, 2, backend=backend)
        return [pooled, *painted]

    expected = both()
    with torch.autocast("cpu", torch.bfloat16):
        found = both()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.slow
@needs_library
def test_compiles_once_for_images_and_objects_of_any_number_and_size():
    def step(levels: list[Tensor], boxes: Tensor, index: Tensor, check: bool) -> list[Tensor]:
        sizes = [(level.shape[2], level.shape[3]) for level in levels]
        where = (boxes, index, (8 * sizes[0][0], 8 * sizes[0][1]))
        pooled = pool_boxes(levels, *where, check=check)
        return paint_boxes(2 * pooled, *where, sizes, levels[0].shape[0])

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, dynamic=True)  # by inductor
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch, count, size in ((3, 7, 10), (4, 20, 12), (6, 2, 17)):
            boxes, index = objects(count, batch)
            shapes = [(batch, 8, size, size + 1), (batch, 8, 9, size + 3)]
            levels = [torch.randn(shape, requires_grad=True) for shape in shapes]
            found, expected = (f(levels, boxes, index, True) for f in (compiled, step))
            torch.testing.assert_close(found, expected)
            grads = [
                torch.autograd.grad(sum(y.square().sum() for y in maps), levels)
                for maps in (found, expected)
            ]
            torch.testing.assert_close(*grads)
        with pytest.raises(RuntimeError, match=r"outside 0 \.\. the batch size - 1"):
            compiled(levels, boxes, index + batch, True)
        with pytest.raises(RuntimeError, match="boxes has non-finite values"):
            compiled(levels, boxes / 0, index, True)


@needs_library
def test_torch_export_of_any_number_of_objects_and_sizes_of_maps():
    class Both(torch.nn.Module):
        def forward(self, x, boxes, labels):
            rows, columns = x.shape[2:]
            where = boxes, labels * 0, (8 * rows, 8 * columns)
            pooled = pool_boxes([x], *where)
            painted = paint_boxes(pooled[0], *where, [(rows, columns)], 2)
            marks = boxes, labels, labels * 0, (8 * rows, 8 * columns), [(rows, columns)], 2, 3
            return painted[0], label_heatmap(*marks)[0]

    def arguments(rows, columns, count):
        boxes = torch.tensor([[0.0, 0.0, 30.0, 40.0]]).repeat(count, 1)
        return torch.randn(2, 4, rows, columns), boxes, torch.arange(count) % 3

    h, w, t = (torch.export.Dim(name, min=2, max=99) for name in "hwt")
    shapes = ({2: h, 3: w}, {0: t}, {0: t})
    program = torch.export.export(Both(), arguments(8, 9, 3), dynamic_shapes=shapes).module()
    other = arguments(7, 12, 5)
    for found, expected in zip(program(*other), Both()(*other), strict=True):
        assert torch.equal(found, expected)

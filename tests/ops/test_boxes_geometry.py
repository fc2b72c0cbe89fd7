"""One rule for the cells of a box: native code and reference agree on every kind of box."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sssd.ops import label_heatmap, paint_boxes, pool_boxes
from sssd.ops.reference.boxes import cell_spans
from tests.ops.box_cases import IMAGE_SIZE, SHAPES, covered, maps, needs_library, objects
from tests.pairwise import pairwise

KINDS = ("integer", "float", "sub-pixel", "outside", "degenerate", "not finite", "huge", "tiny")


def boxes_of_kind(kind: str, count: int, image_size: tuple[int, int], seed: int) -> Tensor:
    """Random boxes that stress one part of the rule."""
    g = torch.Generator().manual_seed(seed)
    height, width = image_size
    corners = torch.rand(count, 4, generator=g, dtype=torch.float64) * torch.tensor(
        [width, height, width, height]
    )
    boxes = torch.cat(
        [
            torch.minimum(corners[:, :2], corners[:, 2:]),
            torch.maximum(corners[:, :2], corners[:, 2:]),
        ],
        dim=1,
    )
    if kind == "integer":
        boxes = boxes.round()
    elif kind == "sub-pixel":  # corners on eighths: on the points of cells, and just beside them
        boxes = (boxes * 8).round() / 8
    elif kind == "outside":
        boxes = boxes * 4 - torch.tensor([width, height, width, height]) * 1.5
    elif kind == "degenerate":
        boxes[:, 2:] = boxes[:, :2] + torch.randint(-1, 2, (count, 2), generator=g)
    elif kind == "not finite":
        strange = torch.tensor([float("nan"), float("inf"), -float("inf")])
        place = torch.randint(0, 4, (count,), generator=g)
        boxes[torch.arange(count), place] = strange[
            torch.randint(0, 3, (count,), generator=g)
        ].double()
    elif kind == "huge":
        boxes = (boxes - boxes.mean(1, keepdim=True)) * 10.0 ** torch.randint(
            1, 37, (count, 1), generator=g
        )
    elif kind == "tiny":
        boxes[:, 2:] = boxes[:, :2] + torch.rand(count, 2, generator=g) * 1e-6
    return boxes


def moments(spans: Tensor) -> Tensor:
    """Number, sums and sums of squares of the columns and rows of spans: they tell a span."""

    def sums(first: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        def below(n: Tensor) -> tuple[Tensor, Tensor]:
            return n * (n - 1) // 2, (n - 1) * n * (2 * n - 1) // 6

        (a, b), (c, d) = below(first), below(end)
        return c - a, d - b

    left, right, top, bottom = spans.unbind(1)
    columns, rows = right - left, bottom - top
    x, xx = sums(left, right)
    y, yy = sums(top, bottom)
    return torch.stack([rows * columns, x * rows, xx * rows, y * columns, yy * columns], dim=1)


@needs_library
@pairwise(kind=KINDS, dtype=[torch.float32, torch.float64])
def test_native_spans_equal_the_reference_on_many_boxes(kind, dtype):
    # 8 kinds x 2 dtypes x 7 levels x 1,000 boxes: 112,000 spans.
    image_size = (800, 1333)
    shapes = [(100, 167), (50, 84), (25, 42), (13, 21), (7, 11), (1, 1), (800, 1333)]
    boxes = boxes_of_kind(kind, 1000, image_size, seed=len(kind)).to(dtype)
    index = torch.zeros(len(boxes), dtype=torch.int64)
    for shape in shapes:
        row = torch.arange(shape[0], dtype=torch.float64)[:, None].expand(shape)
        column = torch.arange(shape[1], dtype=torch.float64).expand(shape)
        level = torch.stack([torch.ones(shape), column, column**2, row, row**2])[None]
        sums = torch.ops.sssd.box_pool(
            [level.double().contiguous()], boxes, index, list(image_size), False
        )
        spans = cell_spans(boxes, image_size, shape)
        assert torch.equal(sums[0], moments(spans).double())
        assert kind != "not finite" or (spans == 0).all()


@needs_library
@settings(max_examples=200, deadline=None)
@given(
    corners=st.lists(st.floats(-300, 300, width=32), min_size=4, max_size=4),
    image_size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_any_box_on_any_level(corners, image_size, shape):
    boxes = torch.tensor([corners])
    rows, columns = covered(boxes[0].tolist(), image_size, shape)
    cells = (rows.stop - rows.start) * (columns.stop - columns.start)
    left, right, top, bottom = cell_spans(boxes, image_size, shape)[0].tolist()
    assert (right - left) * (bottom - top) == cells
    if cells:
        assert (left, right, top, bottom) == (
            columns.start, columns.stop, rows.start, rows.stop,
        )  # fmt: skip
    ones = torch.ones(1, 1, *shape, dtype=torch.float64)
    index = torch.zeros(1, dtype=torch.int64)
    native = torch.ops.sssd.box_pool([ones], boxes, index, list(image_size), False)
    assert native.item() == cells


@needs_library
@pairwise(kind=KINDS, profile=["box", "pyramid", "gaussian", "gaussian_legacy"])
def test_native_profiles_equal_the_reference_on_many_boxes(kind, profile):
    image_size, shapes = (320, 416), [(40, 52), (10, 13)]
    boxes = boxes_of_kind(kind, 400, image_size, seed=len(kind) + 1).float()
    labels = torch.arange(len(boxes)) % 50
    index = torch.arange(len(boxes)) % 8  # one object a heatmap: nothing hides behind another
    arguments = (boxes, labels, index, image_size, shapes, 8, 50)
    options = {"profile": profile, "dtype": torch.float64}
    native = label_heatmap(*arguments, **options, backend="cpu")
    reference = label_heatmap(*arguments, **options, backend="reference")
    for ours, theirs in zip(native, reference, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


class GpuArithmetic(TorchDispatchMode):
    """What torch's own CUDA kernels round otherwise than its CPU kernels.

    A tensor is divided by a number as x * (1 / number), and where the user allows TensorFloat-32 a
    float32 product takes factors of 10 bits.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.div.Tensor and isinstance(args[1], float | int):
            return args[0] * (1 / args[1])
        if function in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
            args = [x.half().float() if x.dtype == torch.float32 else x for x in args]
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("profile", ["box", "gaussian", "gaussian_legacy"])
@pytest.mark.parametrize(("pixels", "cells"), [(392, 49), (600, 75), (1200, 150), (401, 401)])
def test_boxes_on_the_points_of_cells_have_the_same_cells_on_a_gpu(pixels, cells, profile):
    edges = torch.arange(cells + 1, dtype=torch.float64) * pixels / cells
    low, high = edges[:-2], edges[2:]  # the centre, too, is the point of a cell
    boxes = torch.stack((low, torch.zeros_like(low), high, torch.full_like(low, 16)), dim=1)
    labels = torch.arange(len(boxes))
    where = (boxes, labels, labels * 0, (16, pixels), [(2, cells)], 1, len(boxes))

    def drawn():
        with torch.no_grad():
            return label_heatmap(*where, profile=profile, dtype=torch.float64, backend="reference")

    expected = drawn()
    with GpuArithmetic():
        found = drawn()
    assert torch.equal(found[0] > 0, expected[0] > 0)


def test_pool_and_paint_are_as_exact_where_a_gpu_may_round_the_factors_of_products():
    boxes, index = objects(9, batch=3)
    levels = maps(3, 37, torch.float32)

    def both():
        pooled = pool_boxes(levels, boxes, index, IMAGE_SIZE, backend="reference")
        where = (boxes, index, IMAGE_SIZE, SHAPES, 3)
        return [pooled, *paint_boxes(pooled, *where, backend="reference")]

    expected = both()
    with GpuArithmetic():
        found = both()
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=1e-6)

"""One rule for the cells of a box: native code and reference agree on every kind of box."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sssd.ops import label_heatmap
from sssd.ops.reference.boxes import cell_spans
from tests.ops.box_cases import covered, needs_library
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

"""Label heatmaps: every backend against loops over boxes and cells."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sssd.ops.heatmap import label_heatmap
from sssd.ops.reference.heatmap import _sqrt, gaussian_radius
from sssd.ops.reference.heatmap import label_heatmap as reference_heatmap
from tests.ops.box_cases import BACKENDS, IMAGE_SIZE, SHAPES, covered, needs_library, objects
from tests.pairwise import pairwise

CLASSES = 5
PROFILES = ("box", "pyramid", "gaussian", "gaussian_legacy")
DTYPES = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def radius(height: float, width: float, overlap: float, *, legacy: bool) -> int:
    """CenterNet's `gaussian_radius`, and the corrected roots."""
    quadratics = [
        (1, height + width, width * height * (1 - overlap) / (1 + overlap)),
        (4, 2 * (height + width), (1 - overlap) * width * height),
        (4 * overlap, -2 * overlap * (height + width), (overlap - 1) * width * height),
    ]
    roots = []
    for case, (a, b, c) in enumerate(quadratics):
        root = math.sqrt(b * b - 4 * a * c)
        if legacy:
            roots.append((b + root) / 2)
        else:
            roots.append((b + root if case == 2 else b - root) / (2 * a))
    return max(0, int(min(roots)))


def drawn(box: list[float], shape: tuple[int, int], profile: str) -> Tensor:
    """One object on one level, cell by cell."""
    heat = torch.zeros(shape, dtype=torch.float64)
    rows, columns = covered(box, IMAGE_SIZE, shape)
    x1, y1, x2, y2 = box
    scale_y, scale_x = shape[0] / IMAGE_SIZE[0], shape[1] / IMAGE_SIZE[1]
    if profile in ("box", "pyramid"):
        for i in range(rows.start, rows.stop):
            for j in range(columns.start, columns.stop):
                down = abs(i / scale_y - (y1 + y2) / 2) / (y2 - y1)
                right = abs(j / scale_x - (x1 + x2) / 2) / (x2 - x1)
                heat[i, j] = 1 if profile == "box" else 1 - max(down, right)
        return heat
    row, column = ((y1 + y2) / 2 * scale_y, (x1 + x2) / 2 * scale_x)
    if not (0 <= row < shape[0] and 0 <= column < shape[1]):
        return heat
    size = math.ceil((y2 - y1) * scale_y), math.ceil((x2 - x1) * scale_x)
    reach = radius(*size, 0.7, legacy=profile == "gaussian_legacy")
    sigma = (2 * reach + 1) / 6
    for i in range(max(0, int(row) - reach), min(shape[0], int(row) + reach + 1)):
        for j in range(max(0, int(column) - reach), min(shape[1], int(column) + reach + 1)):
            squared = (i - int(row)) ** 2 + (j - int(column)) ** 2
            heat[i, j] = math.exp(-squared / (2 * sigma**2))
    return heat


def expected(
    boxes: Tensor, labels: Tensor, index: Tensor, batch: int, profile: str, combine: str, *,
    strength: Tensor | None = None, shown: Tensor | None = None,
) -> list[Tensor]:  # fmt: skip
    """Objects drawn one after the other."""
    maps = []
    for level, shape in enumerate(SHAPES):
        heat = torch.zeros(batch, CLASSES, *shape, dtype=torch.float64)
        for t, box in enumerate(boxes.tolist()):
            if shown is not None and not shown[level, t]:
                continue
            plane = heat[index[t], labels[t]]
            one = drawn(box, shape, profile) * (1 if strength is None else strength[t].item())
            plane.copy_(torch.maximum(plane, one) if combine == "max" else plane + one)
        maps.append(heat)
    return maps


def labelled(count: int, batch: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    boxes, index = objects(count, batch, seed)
    labels = torch.randint(0, CLASSES, (count,), generator=torch.Generator().manual_seed(seed))
    return boxes.double(), labels, index


@pairwise(
    backend=BACKENDS,
    profile=PROFILES,
    combine=["max", "sum"],
    dtype=DTYPES,
    index_dtype=[torch.int32, torch.int64],
)
def test_values(backend, profile, combine, dtype, index_dtype):
    boxes, labels, index = labelled(40)
    strength = torch.rand(40, generator=torch.Generator().manual_seed(3))
    for factor in (None, strength):
        ours = label_heatmap(
            boxes, labels.to(index_dtype), index.to(index_dtype), IMAGE_SIZE, SHAPES, 3, CLASSES,
            profile=profile, combine=combine, strength=factor, dtype=dtype, backend=backend,
        )  # fmt: skip
        wanted = expected(boxes, labels, index, 3, profile, combine, strength=factor)
        for level, theirs in zip(ours, wanted, strict=True):
            assert level.dtype == dtype
            torch.testing.assert_close(
                level.double(), theirs, atol=DTYPES[dtype], rtol=DTYPES[dtype]
            )


@pytest.mark.parametrize("backend", BACKENDS)
def test_levels_by_equation_1_of_fpn_and_by_size(backend):
    side = torch.tensor([8.0, 15.0, 16.0, 40.0, 90.0])
    boxes = torch.stack([side * 0, side * 0, side * 2, side / 2], dim=1)  # sqrt(w h) = side
    labels = torch.arange(5)
    index = torch.zeros(5, dtype=torch.int64)
    sizes, ranges = [(168, 168), (84, 84), (42, 42)], [(0, 32), (32, 80), (80, math.inf)]
    # Strides 8, 16 and 32 are levels 3, 4 and 5. Sizes 56, 105, 112 have k = 2, 2, 3; 280 and 630
    # have k = 4 and 5.
    arguments = (boxes * 7, labels, index, (1344, 1344), sizes, 1, 5)
    by_fpn = label_heatmap(*arguments, profile="gaussian", assign="fpn", backend=backend)
    at = [[k for k in range(5) if level[0, k].any()] for level in by_fpn]
    assert at == [[0, 1, 2], [3], [4]]
    arguments = (boxes, *arguments[1:])
    by_size = label_heatmap(*arguments, profile="gaussian", assign=ranges, backend=backend)
    at = [[k for k in range(5) if level[0, k].any()] for level in by_size]
    assert at == [[0, 1], [2], [3, 4]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_boxes_that_draw_nothing(backend):
    nan, infinity = float("nan"), float("inf")
    boxes = torch.tensor(
        [
            [nan, 0, 10, 10], [0, 0, infinity, 10], [30, 30, 30, 40], [30, 30, 20, 40],
            [-50, 0, 10, 10],  # centred outside
            [170, 100, 190, 110],
        ]
    )  # fmt: skip
    zeros = torch.zeros(len(boxes), dtype=torch.int64)
    maps = label_heatmap(boxes, zeros, zeros, IMAGE_SIZE, SHAPES, 1, 1, backend=backend)
    assert all((level == 0).all() for level in maps)
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    maps = label_heatmap(*none, IMAGE_SIZE, SHAPES, 2, 3, backend=backend)
    assert all((level == 0).all() and level.shape[:2] == (2, 3) for level in maps)


@pytest.mark.parametrize("combine", ["max", "sum"])
def test_labels_that_nobody_checked_draw_nothing(combine):
    """On an accelerator the reference sees them; behind an image's maps lie another image's."""
    corners = torch.tensor([[0.0, 0.0, 20.0, 20.0]])
    for label, image in ((-1, 0), (-1, 1), (CLASSES, 0), (CLASSES, 1)):
        (heat,) = reference_heatmap(
            corners, torch.tensor([label]), torch.tensor([image]), IMAGE_SIZE, SHAPES[:1], 2,
            CLASSES, profile="box", combine=combine, assigned=None, min_overlap=0.7,
            strength=None, dtype=torch.float32,
        )  # fmt: skip
        assert not heat.any()


def test_corrected_radius_keeps_the_overlap_and_the_legacy_one_does_not():
    height = torch.tensor([10.0, 40.0, 7.0], dtype=torch.float64)
    width = torch.tensor([20.0, 40.0, 90.0], dtype=torch.float64)
    right = gaussian_radius(height, width, 0.7)
    inner = (height - 2 * right) * (width - 2 * right) / (height * width)
    outer = height * width / ((height + 2 * right) * (width + 2 * right))
    both = (height - right) * (width - right)
    shifted = both / (2 * height * width - both)
    smallest = torch.stack([inner, outer, shifted]).amin(0)
    torch.testing.assert_close(smallest, torch.full_like(smallest, 0.7))
    legacy = gaussian_radius(height, width, 0.7, legacy=True)
    assert ((height - legacy) * (width - legacy) < 0.7 * height * width).all()


@pytest.mark.parametrize("profile", PROFILES)
def test_the_reference_takes_the_transforms_that_the_kernels_refuse(profile):
    boxes, labels, index = labelled(9, batch=2)
    shape = SHAPES[0]

    def heat(boxes: Tensor) -> Tensor:
        (maps,) = label_heatmap(
            boxes, labels, index, IMAGE_SIZE, [shape], 2, CLASSES, profile=profile,
            backend="reference",
        )  # fmt: skip
        return maps

    both = torch.stack([boxes, boxes + 3])
    torch.testing.assert_close(torch.vmap(heat)(both), torch.stack([heat(b) for b in both]))
    torch._dynamo.reset()
    compiled = torch.compile(heat, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(boxes), heat(boxes))


def test_the_root_of_a_radius_is_correctly_rounded():
    """Torch's is not: 1 in 70 of these."""
    whole = torch.arange(1, 9000, dtype=torch.float64) ** 2  # what a radius takes the root of
    ends = torch.zeros_like(whole), torch.full_like(whole, math.inf)
    near = torch.cat([whole, *(torch.nextafter(whole, end) for end in ends)])
    values = torch.cat([near, 1e5 * torch.rand(20_000, dtype=torch.float64), torch.zeros(1)])
    expected = [math.sqrt(value) for value in values.tolist()]
    assert _sqrt(values).tolist() == expected


@needs_library
def test_opcheck():
    boxes, labels, index = labelled(9, batch=2)
    shapes = [side for shape in SHAPES for side in shape]
    size, shown = list(IMAGE_SIZE), torch.ones(len(SHAPES), 9, dtype=torch.bool)
    strength = torch.rand(9)
    torch.library.opcheck(
        torch.ops.sssd.label_heatmap.default,
        (boxes, labels, index, size, shapes, 2, CLASSES, 2, 0, 0.7, shown, strength, strength[:0]),
    )


def test_bad_input_names_the_argument_and_the_way_out():
    boxes, labels, index = labelled(3, batch=2)
    wanted = torch.full((3,), 0.5, requires_grad=True)

    def heat(labels=labels, classes=CLASSES, **options):
        return label_heatmap(boxes, labels, index, IMAGE_SIZE, SHAPES, 2, classes, **options)

    cases = [
        (ValueError, "labels has values outside 0 .. 4.*row 1: the first is 5",
         lambda: heat(torch.tensor([0, 5, 1]))),
        (ValueError, r"labels has shape \(2,\)", lambda: heat(labels[:2])),
        (TypeError, "labels is torch.float32", lambda: heat(labels.float())),
        (ValueError, "num_classes is 0", lambda: heat(classes=0)),
        (ValueError, "num_classes is 2.5: expected a whole", lambda: heat(classes=2.5)),
        (ValueError, "profile is 'cone'", lambda: heat(profile="cone")),
        (ValueError, "combine is 'min'", lambda: heat(combine="min")),
        (ValueError, "assign is 'none'", lambda: heat(assign="none")),
        (ValueError, "assign has 1 ranges for 4 levels", lambda: heat(assign=[(0, 1)])),
        (ValueError, "min_overlap is 1.5", lambda: heat(min_overlap=1.5)),
        (ValueError, "strength is torch.float32 of shape", lambda: heat(strength=torch.ones(2))),
        (TypeError, "min_overlap is a tensor that", lambda: heat(min_overlap=wanted[0])),
        (ValueError, r"strength requires.*detach", lambda: heat(strength=wanted)),
        (TypeError, "dtype is torch.int64", lambda: heat(dtype=torch.int64)),
    ]  # fmt: skip
    for error, message, call in cases:
        with pytest.raises(error, match=message):
            call()

"""The box operators on a GPU: both backends against the reference in float64."""

import pytest
import torch

from sssd.ops import box_kernels, embedded_label_heatmap, label_heatmap, paint_boxes, pool_boxes
from tests.ops.box_cases import FORMATS, IMAGE_SIZE, SHAPES, TOLERANCE, maps, objects
from tests.ops.gpu import BACKENDS, DEVICE, NEEDS_GPU, replayed, skip_unless

pytestmark = [NEEDS_GPU, BACKENDS]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
LAYOUTS = pytest.mark.parametrize("memory_format", FORMATS, ids=str)
COUNTS = pytest.mark.parametrize(("channels", "count"), [(1, 9), (37, 40), (256, 300)])


def on_device(*tensors, device=DEVICE):
    return tuple(x.to(device) for x in tensors)


def assert_near(found, expected, dtype):
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x.double(), y.double(), atol=8 * TOLERANCE[dtype], rtol=2e-2)


@DTYPES
@LAYOUTS
@COUNTS
def test_pool(channels, count, memory_format, dtype, backend):
    skip_unless(box_kernels.POOL, backend)
    boxes, index = on_device(*objects(count, batch=3))
    levels = [x.to(DEVICE) for x in maps(3, channels, dtype, memory_format)]
    upstream = torch.randn(len(SHAPES), count, channels, device=DEVICE)
    results = []
    for kind, which in ((dtype, backend), (torch.float64, "reference")):
        given = [x.to(kind).requires_grad_() for x in levels]
        pooled = pool_boxes(given, boxes, index, IMAGE_SIZE, backend=which)
        results.append((pooled, *torch.autograd.grad(pooled, given, upstream.to(kind))))
    assert_near(*results, dtype)
    assert all(g.stride() == x.stride() for g, x in zip(results[0][1:], levels, strict=True))


@DTYPES
@LAYOUTS
@COUNTS
def test_paint(channels, count, memory_format, dtype, backend):
    skip_unless(box_kernels.PAINT, backend)
    boxes, index = on_device(*objects(count, batch=3))
    values = torch.randn(count, channels, device=DEVICE).to(dtype)
    upstream = [x.to(DEVICE) for x in maps(3, channels, dtype, memory_format)]
    results = []
    for kind, which in ((dtype, backend), (torch.float64, "reference")):
        given = values.to(kind).requires_grad_()
        painted = paint_boxes(
            given, boxes, index, IMAGE_SIZE, SHAPES, 3, memory_format=memory_format, backend=which
        )
        (grad,) = torch.autograd.grad(painted, given, [x.to(kind) for x in upstream])
        results.append(painted)
        results.append([grad / 100])  # of sums over many cells
    assert_near(results[0], results[2], dtype)
    assert_near(results[1], results[3], dtype)


@pytest.mark.parametrize("combine", ["max", "sum"])
@pytest.mark.parametrize("profile", ["box", "pyramid", "gaussian", "gaussian_legacy"])
def test_label_heatmap(profile, combine, backend):
    skip_unless(box_kernels.HEATMAP, backend)
    boxes, index = on_device(*objects(60, batch=3))
    labels = torch.arange(60, device=DEVICE) % 5
    given = (boxes, labels, index, IMAGE_SIZE, SHAPES, 3, 5)
    found, expected = (
        label_heatmap(*given, profile=profile, combine=combine, backend=which)
        for which in (backend, "reference")
    )
    assert_near(found, expected, torch.float32)


@pytest.mark.parametrize("combine", ["max", "sum"])
def test_embedded_label_heatmap(combine, backend):
    skip_unless(box_kernels.EMBED, backend)
    boxes, index = on_device(*objects(60, batch=3))
    labels = torch.arange(60, device=DEVICE) % 5
    weights = torch.randn(5, 24, device=DEVICE)
    results = []
    for which in (backend, "reference"):
        embedding = weights.clone().requires_grad_()
        painted = embedded_label_heatmap(
            embedding, boxes, labels, index, IMAGE_SIZE, SHAPES, 3, combine=combine, backend=which
        )
        (grad,) = torch.autograd.grad(sum(x.sum() for x in painted), embedding)
        results.append((*painted, grad / 100))
    assert_near(*results, torch.float32)


def test_in_a_cuda_graph(backend):
    skip_unless(box_kernels.POOL, backend)
    boxes, index = on_device(*objects(40, batch=3))
    levels = [x.to(DEVICE) for x in maps(3, 16, torch.float32)]

    def call():
        return pool_boxes(levels, boxes, index, IMAGE_SIZE, backend=backend)

    result, replay = replayed(call)
    for x in levels:
        x.copy_(torch.randn_like(x))
    replay()
    assert torch.equal(result, call())


def test_on_the_second_device(backend):
    skip_unless(box_kernels.POOL, backend)
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device only")
    given = objects(40, batch=3)
    pooled = []
    for device in ("cuda:0", "cuda:1"):
        boxes, index = on_device(*given, device=device)
        levels = [x.to(device) for x in maps(3, 16, torch.float32)]
        with torch.cuda.device(0):
            pooled.append(pool_boxes(levels, boxes, index, IMAGE_SIZE, backend=backend))
    torch.testing.assert_close(pooled[0].cpu(), pooled[1].cpu())

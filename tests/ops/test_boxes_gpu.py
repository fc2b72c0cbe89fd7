"""The box operators on a GPU: both backends, held to the error analysis of box_accuracy.py."""

import pytest
import torch

from bench.gpu_speed import replayed
from sssd.ops import box_kernels, label_heatmap, paint_boxes, pool_boxes
from tests.ops import box_accuracy as accuracy
from tests.ops.box_cases import DTYPES, FORMATS, IMAGE_SIZE, SHAPES, maps, objects
from tests.ops.gpu import BACKENDS, DEVICE, EACH, NEEDS_GPU, skip_unless
from tests.pairwise import pairwise

pytestmark = NEEDS_GPU
FACTORS = {
    "channels__count": [(1, 9), (37, 40), (256, 300)],
    "memory_format": FORMATS,
    "dtype": DTYPES[1:],
    "backend": BACKENDS,
}


def on_device(*tensors, device=DEVICE):
    return tuple(x.to(device) for x in tensors)


@pairwise(**FACTORS)
def test_pool(channels, count, memory_format, dtype, backend):
    skip_unless(box_kernels.POOL, backend)
    where = (*on_device(*objects(count, batch=3)), IMAGE_SIZE)
    levels = [x.to(DEVICE).requires_grad_() for x in maps(3, channels, dtype, memory_format)]
    pooled = pool_boxes(levels, *where, backend=backend)
    upstream = torch.randn(pooled.shape, device=DEVICE).to(dtype)
    grads = torch.autograd.grad(pooled, levels, upstream)
    accuracy.check_pool(pooled, levels, *where)
    accuracy.check_paint(grads, upstream, *where, mean=True)
    assert all(g.stride() == x.stride() for g, x in zip(grads, levels, strict=True))


@pairwise(shared=[True, False], **FACTORS)
def test_paint(shared, channels, count, memory_format, dtype, backend):
    """The same vectors on every level, or those of each."""
    skip_unless(box_kernels.PAINT, backend)
    where = (*on_device(*objects(count, batch=3)), IMAGE_SIZE)
    shape = (count, channels) if shared else (len(SHAPES), count, channels)
    values = torch.randn(shape, device=DEVICE).to(dtype).requires_grad_()
    painted = paint_boxes(values, *where, SHAPES, 3, memory_format=memory_format, backend=backend)
    accuracy.check_paint(painted, values, *where)
    if not shared:
        upstream = [x.to(DEVICE) for x in maps(3, channels, dtype, memory_format)]
        (grad,) = torch.autograd.grad(painted, values, upstream)
        accuracy.check_pool(grad, upstream, *where, mean=False)


@pairwise(profile=accuracy.PROFILE, combine=["max", "sum"], dtype=DTYPES[1:], backend=BACKENDS)
def test_label_heatmaps(profile, combine, dtype, backend):
    skip_unless(box_kernels.HEATMAP, backend)
    boxes, index = on_device(*objects(60, batch=3))
    labels = torch.arange(60, device=DEVICE) % 5
    where = (boxes, labels, index, IMAGE_SIZE, SHAPES, 3)
    options = {"profile": profile, "combine": combine, "strength": torch.rand(60, device=DEVICE)}
    heat = label_heatmap(*where, 5, **options, dtype=dtype, backend=backend)
    accuracy.check_heatmap(heat, *where, 5, **options)


@EACH
def test_boxes_on_the_points_of_cells(backend):
    """8 * 49 / 392 is 1, which torch divides by a number on CUDA into less."""
    skip_unless(box_kernels.POOL, backend)
    low = torch.arange(46, device=DEVICE) * 8.0
    boxes = torch.stack((low, 0 * low, low + 24, 0 * low + 16), dim=1)
    index = torch.zeros(46, dtype=torch.int64, device=DEVICE)
    ones = [torch.ones(1, 1, 2, 49, device=DEVICE)]
    pooled = pool_boxes(ones, boxes, index, (16, 392), mean=False, backend=backend)
    assert (pooled == 4 * 2).all()


@EACH
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


@EACH
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
    assert torch.equal(pooled[0].cpu(), pooled[1].cpu())

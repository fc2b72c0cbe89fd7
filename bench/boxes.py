"""The box operators beside what they replace: `python -m bench.boxes`.

Pool and paint run forward and backward on the levels P3 to P7 of two 800 x 1344 images with 256
channels, against the best vectorised PyTorch (dense masks, one product a level and image) and the
loops over levels, images and objects that LGD runs; heatmaps against the loops over boxes of
CenterNet and LabelEnc. All of a row are timed in turn in one process; times are medians.

glibc maps every block above 32 MB, such as the map of P3 here, anew for each call and has the
system clear its pages, which can take longer than all else. For all that is timed it is told to
keep its memory; --fresh-pages leaves it as it is.
"""

from __future__ import annotations

import argparse
import ctypes
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sssd.ops import paint_boxes, pool_boxes
from sssd.ops.heatmap import label_heatmap
from sssd.ops.reference.boxes import cell_masks, cell_spans
from sssd.ops.reference.heatmap import gaussian_radius

IMAGE_SIZE = (800, 1344)
SHAPES = [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]
BATCH, CHANNELS, CLASSES = 2, 256, 80
HEATMAP_SIZE, HEATMAP_SHAPE = (512, 512), (128, 128)  # CenterNet's


def scene(count: int, image_size: tuple[int, int] = IMAGE_SIZE) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes of log-normal size (median 100 px of 1344), labels, image index."""
    generator = torch.Generator().manual_seed(count)
    limits = torch.tensor([image_size[1], image_size[0]])
    centre = torch.rand(count, 2, generator=generator) * limits
    size = torch.exp(torch.randn(count, 2, generator=generator) * 0.8) * image_size[1] / 13.44
    corners = [(centre - size / 2).clamp(min=0), torch.minimum(centre + size / 2, limits - 1)]
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    return torch.cat(corners, dim=1), labels, torch.arange(count) % BATCH


# ---- what is replaced ----------------------------------------------------------------------------


def vectorised_pool(levels: list[Tensor], boxes: Tensor, index: Tensor) -> Tensor:
    """Dense masks a level, one product an image."""
    pooled = []
    for level in levels:
        masks = cell_masks(boxes, IMAGE_SIZE, tuple(level.shape[2:])).flatten(1).to(level.dtype)
        area = masks.sum(1, keepdim=True).clamp(min=1)
        result = level.new_zeros(len(boxes), level.shape[1])
        for image in range(BATCH):
            mine = (index == image).nonzero()[:, 0]
            result = result.index_copy(0, mine, masks[mine] @ level[image].flatten(1).T)
        pooled.append(result / area)
    return torch.stack(pooled)


def vectorised_paint(values: Tensor, boxes: Tensor, index: Tensor) -> list[Tensor]:
    """Dense masks a level, one product an image."""
    painted = []
    for shape in SHAPES:
        masks = cell_masks(boxes, IMAGE_SIZE, shape).flatten(1).to(values.dtype)
        images = [values[index == b].T @ masks[index == b] for b in range(BATCH)]
        painted.append(torch.stack(images).unflatten(2, shape))
    return painted


def looped_pool(levels: list[Tensor], boxes: Tensor, index: Tensor) -> Tensor:
    """Level by level, image by image, object by object."""
    pooled = []
    for level in levels:
        spans = cell_spans(boxes, IMAGE_SIZE, tuple(level.shape[2:])).tolist()
        rows = []
        for (x1, x2, y1, y2), image in zip(spans, index.tolist(), strict=True):
            mask = level.new_zeros(level.shape[2:])
            mask[y1:y2, x1:x2] = 1
            rows.append((level[image] * mask).sum((1, 2)) / mask.sum().clamp(min=1))
        pooled.append(torch.stack(rows))
    return torch.stack(pooled)


def looped_paint(values: Tensor, boxes: Tensor, index: Tensor) -> list[Tensor]:
    """Level by level, image by image, object by object."""
    painted = []
    for shape in SHAPES:
        spans = cell_spans(boxes, IMAGE_SIZE, shape).tolist()
        images = [values.new_zeros(values.shape[1], *shape) for _ in range(BATCH)]
        for t, ((x1, x2, y1, y2), image) in enumerate(zip(spans, index.tolist(), strict=True)):
            mask = values.new_zeros(shape)
            mask[y1:y2, x1:x2] = 1
            images[image] = images[image] + values[t][:, None, None] * mask
        painted.append(torch.stack(images))
    return painted


def centernet_loop(boxes: Tensor, labels: Tensor, index: Tensor) -> list[np.ndarray]:
    """A Gaussian patch a box, maximum with the map's slice, in numpy."""
    heat = np.zeros((BATCH, CLASSES, *HEATMAP_SHAPE), dtype=np.float32)
    ratio = HEATMAP_SHAPE[0] / HEATMAP_SIZE[0]
    for (x1, y1, x2, y2), label, image in zip(
        (boxes * ratio).tolist(), labels.tolist(), index.tolist(), strict=True
    ):
        size = torch.tensor([y2 - y1, x2 - x1], dtype=torch.float64).ceil()
        radius = max(0, int(gaussian_radius(size[0], size[1], legacy=True)))
        column, row = int((x1 + x2) / 2), int((y1 + y2) / 2)
        y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
        sigma = (2 * radius + 1) / 6
        patch = np.exp(-(x * x + y * y) / (2 * sigma * sigma))
        left, right = min(column, radius), min(HEATMAP_SHAPE[1] - column, radius + 1)
        top, bottom = min(row, radius), min(HEATMAP_SHAPE[0] - row, radius + 1)
        plane = heat[image, label, row - top : row + bottom, column - left : column + right]
        np.maximum(
            plane, patch[radius - top : radius + bottom, radius - left : radius + right], out=plane
        )
    return [heat]


def labelenc_loop(boxes: Tensor, labels: Tensor, index: Tensor) -> list[Tensor]:
    """A whole map of distances a box, maximum with the class's plane."""
    heat = torch.zeros(BATCH, CLASSES, *HEATMAP_SHAPE)
    ratio = HEATMAP_SHAPE[0] / HEATMAP_SIZE[0]
    y = torch.arange(HEATMAP_SHAPE[0])[:, None]
    x = torch.arange(HEATMAP_SHAPE[1])[None, :]
    for (x1, y1, x2, y2), label, image in zip(
        (boxes * ratio).tolist(), labels.tolist(), index.tolist(), strict=True
    ):
        far = torch.maximum(
            (y - (y1 + y2) / 2).abs() / (y2 - y1), (x - (x1 + x2) / 2).abs() / (x2 - x1)
        )
        value = torch.where(far <= 0.5, 1 - far, torch.zeros(()))
        heat[image, label] = torch.maximum(heat[image, label], value)
    return [heat]


# ---- measuring -----------------------------------------------------------------------------------


def keep_pages() -> None:
    """Have glibc keep the memory that is freed, and map none of it apart; see `man mallopt`."""
    trim_threshold, mmap_max = -1, -4
    libc = ctypes.CDLL(None)
    if not (libc.mallopt(mmap_max, 0) and libc.mallopt(trim_threshold, 2**31 - 1)):
        print(
            "this malloc can not be told to keep its pages: large results are timed with fresh ones"
        )


def in_turn(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median milliseconds of each call, all called in turn until the time is over.

    Each is called twice and timed the second time: with what it has left in the caches itself, not
    with what the others have.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, call in calls.items():
            call()
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def forward_backward(
    function: Callable[..., Tensor | list[Tensor]], inputs: list[Tensor], grads: list[Tensor]
) -> Callable[[], object]:
    """A call that runs a function and its gradients."""

    def call() -> object:
        result = function()
        return torch.autograd.grad(result, inputs, grads)

    return call


def peak_bytes(kind: str, count: int) -> int:
    """The most resident memory of a fresh process that paints `count` objects once, in bytes."""
    command = [sys.executable, "-W", "ignore", "-m", "bench.boxes", "--peak", kind]
    done = subprocess.run([*command, "--objects", str(count)], capture_output=True, check=True)
    return int(done.stdout)


def print_peak(kind: str, count: int) -> None:
    """What `peak_bytes` runs."""
    boxes, _, index = scene(count)
    values = torch.randn(count, CHANNELS)
    if kind == "ours":
        kept: object = paint_boxes(values, boxes, index, IMAGE_SIZE, SHAPES, BATCH)
    elif kind == "vectorised":
        kept = vectorised_paint(values, boxes, index)
    else:  # the result alone, written
        kept = [torch.ones(BATCH, CHANNELS, *shape) for shape in SHAPES]
    # Not getrusage: what it says of a fresh process starts from the memory of the one that made it.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) << 10)
    del kept


def row(name: str, times: dict[str, float]) -> None:
    """Print times and what each is to ours."""
    ours = next(iter(times.values()))
    cells = [f"{key} {value:9.2f} ms {value / ours:7.1f}x" for key, value in times.items()]
    print(f"{name:35}" + " | ".join(cells), flush=True)


def pool_and_paint(count: int, seconds: float, loops: bool) -> None:
    """Forward and backward, both memory formats."""
    boxes, _, index = scene(count)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        name = "channels_last" if memory_format == torch.channels_last else "contiguous"
        levels = [
            torch.randn(BATCH, CHANNELS, *shape)
            .contiguous(memory_format=memory_format)
            .requires_grad_()
            for shape in SHAPES
        ]
        values = torch.randn(count, CHANNELS, requires_grad=True)
        grad = [torch.randn(len(SHAPES), count, CHANNELS)]
        grads = [torch.randn_like(level) for level in levels]

        def ours_pool(levels: list[Tensor] = levels) -> Tensor:
            return pool_boxes(levels, boxes, index, IMAGE_SIZE)

        def ours_paint(
            values: Tensor = values, memory_format: torch.memory_format = memory_format
        ) -> list[Tensor]:
            return paint_boxes(
                values, boxes, index, IMAGE_SIZE, SHAPES, BATCH, memory_format=memory_format
            )

        pool = {"ours": forward_backward(ours_pool, levels, grad)}
        paint = {"ours": forward_backward(ours_paint, [values], grads)}
        peers = {"vectorised": (vectorised_pool, vectorised_paint)}
        if loops:
            peers["loops"] = (looped_pool, looped_paint)
        for peer, (pooled, painted) in peers.items():
            pool[peer] = forward_backward(
                lambda f=pooled, x=levels: f(x, boxes, index), levels, grad
            )
            paint[peer] = forward_backward(
                lambda f=painted, x=values: f(x, boxes, index), [values], grads
            )
        row(f"pool  {count:4} objects {name}", in_turn(pool, seconds))
        row(f"paint {count:4} objects {name}", in_turn(paint, seconds))


def heatmaps(count: int, seconds: float) -> None:
    """Forward: a heatmap has no gradient."""
    boxes, labels, index = scene(count, HEATMAP_SIZE)
    arguments = (boxes, labels, index, HEATMAP_SIZE, [HEATMAP_SHAPE], BATCH, CLASSES)
    for profile, loop in (("gaussian_legacy", centernet_loop), ("pyramid", labelenc_loop)):
        calls = {
            "ours": lambda p=profile: label_heatmap(*arguments, profile=p),
            "loops": lambda f=loop: f(boxes, labels, index),
            "zeros alone": lambda: torch.zeros(BATCH, CLASSES, *HEATMAP_SHAPE),
        }
        row(f"{profile:15} {count:4} objects", in_turn(calls, seconds))


def memory(count: int) -> None:
    """Peak memory of painting beyond the result itself."""
    result = peak_bytes("result", count)
    extra = {kind: peak_bytes(kind, count) - result for kind in ("ours", "vectorised")}
    cells = " | ".join(f"{kind} {size / 1e6:7.1f} MB" for kind, size in extra.items())
    print(f"paint {count:4} objects, peak memory beyond the result: {cells}", flush=True)


def linearity(seconds: float) -> None:
    """Time of the forward passes against the covered area, 100 objects of one size."""
    levels = [torch.randn(BATCH, CHANNELS, *shape) for shape in SHAPES]
    values, index = torch.randn(100, CHANNELS), torch.arange(100) % BATCH
    for side in (50, 100, 200, 400, 800):
        generator = torch.Generator().manual_seed(side)
        room = torch.tensor([IMAGE_SIZE[1] - side, IMAGE_SIZE[0] - side])
        corner = torch.rand(100, 2, generator=generator) * room
        boxes = torch.cat([corner, corner + side], dim=1)
        cells = sum(int(cell_masks(boxes, IMAGE_SIZE, shape).sum()) for shape in SHAPES)
        calls = {
            "pool": lambda b=boxes: pool_boxes(levels, b, index, IMAGE_SIZE),
            "paint": lambda b=boxes: paint_boxes(values, b, index, IMAGE_SIZE, SHAPES, BATCH),
        }
        times = in_turn(calls, seconds)
        print(
            f"boxes of {side:3} px: {cells:7} covered cells, pool {times['pool']:6.2f} ms "
            f"({1e6 * times['pool'] / cells:6.0f} ns a cell), paint {times['paint']:6.2f} ms",
            flush=True,
        )


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, nargs="+", default=[20, 100, 500])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each row")
    parser.add_argument("--no-loops", action="store_true", help="leave LGD's loops out: minutes")
    parser.add_argument("--fresh-pages", action="store_true", help="malloc as it is")
    parser.add_argument("--peak", choices=["result", "ours", "vectorised"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        print_peak(arguments.peak, arguments.objects[0])
        return
    if not arguments.fresh_pages:
        keep_pages()
    print(f"{platform.processor() or platform.machine()}, {arguments.threads} threads, "
          f"torch {torch.__version__}")  # fmt: skip
    for count in arguments.objects:
        pool_and_paint(count, arguments.seconds, not arguments.no_loops and count <= 100)
        heatmaps(count, arguments.seconds)
        memory(count)
    linearity(arguments.seconds)


if __name__ == "__main__":
    main()

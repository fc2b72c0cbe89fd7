"""The box operators beside what they replace: `python -m bench.boxes`.

Pool and paint run forward and backward on the levels P3 to P7 of two 800 x 1344 images with 256
channels, against the best vectorised PyTorch (dense masks, one product a level and image) and LGD's
loops over levels, images and objects; heatmaps against the loops over boxes of CenterNet and
LabelEnc. All of a row are timed in turn in one process; times are medians. "zeros" is what nobody
can leave out: to clear maps of the result's size (of the gradient's, for pool).

glibc maps every block above 32 MB, such as the map of P3 here, anew for each call and has the
system clear its pages, which can take longer than all else. For all that is timed it is told to
keep its memory; --fresh-pages leaves it as it is.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bench import peers
from sssd.engine.device import name_of
from sssd.ops import label_heatmap, paint_boxes, pool_boxes
from sssd.ops.reference.boxes import cell_masks

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


# ---- measuring -----------------------------------------------------------------------------------


def keep_pages() -> None:
    """Have glibc keep the memory that is freed, and map none of it apart; see `man mallopt`."""
    trim_threshold, mmap_max = -1, -4
    libc = ctypes.CDLL(None)
    if not (libc.mallopt(mmap_max, 0) and libc.mallopt(trim_threshold, 2**31 - 1)):
        print(
            "this malloc cannot be told to keep its pages: large results are timed with fresh ones"
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
        kept = peers.vectorised_paint(
            values.expand(len(SHAPES), -1, -1), boxes, index, IMAGE_SIZE, SHAPES, BATCH
        )
    else:  # the result alone, written
        kept = [torch.ones(BATCH, CHANNELS, *shape) for shape in SHAPES]
    # Not getrusage: what it says of a fresh process starts from the memory of the one that made it.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) << 10)
    del kept


def row(name: str, times: dict[str, float]) -> None:
    """Print times and what each is to ours."""
    ours = next(iter(times.values()))
    cells = [f"{key} {value:8.2f} ms {value / ours:6.1f}x" for key, value in times.items()]
    print(f"{name:35}" + " | ".join(cells), flush=True)


def pool_and_paint(count: int, seconds: float) -> None:
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
        values = torch.randn(len(SHAPES), count, CHANNELS, requires_grad=True)
        pool_grad = [torch.randn_like(values)]
        paint_grads = [torch.randn_like(level) for level in levels]
        pools = {
            "ours": pool_boxes,
            "vectorised": peers.vectorised_pool,
            "loops": peers.looped_pool,
        }
        paints = {
            "ours": paint_boxes,
            "vectorised": peers.vectorised_paint,
            "loops": peers.looped_paint,
        }
        zeros = {"zeros": lambda x=levels: [torch.zeros_like(level) for level in x]}
        pool = {
            peer: forward_backward(partial(f, levels, boxes, index, IMAGE_SIZE), levels, pool_grad)
            for peer, f in pools.items()
        }
        where = (boxes, index, IMAGE_SIZE, SHAPES, BATCH)
        paint = {
            peer: forward_backward(
                partial(f, values, *where, memory_format=memory_format), [values], paint_grads
            )
            for peer, f in paints.items()
        }
        row(f"pool  {count:4} objects {name}", in_turn(pool | zeros, seconds))
        row(f"paint {count:4} objects {name}", in_turn(paint | zeros, seconds))


def heatmaps(count: int, seconds: float) -> None:
    """Forward: a heatmap has no gradient."""
    boxes, labels, index = scene(count, HEATMAP_SIZE)
    ours = (boxes, labels, index, HEATMAP_SIZE, [HEATMAP_SHAPE], BATCH, CLASSES)
    theirs = (boxes, labels, index, HEATMAP_SIZE, HEATMAP_SHAPE, BATCH, CLASSES)
    loops = {"gaussian_legacy": peers.centernet_heatmap, "pyramid": peers.labelenc_heatmap}
    for profile, loop in loops.items():
        calls = {
            "ours": partial(label_heatmap, *ours, profile=profile),
            "loops": partial(loop, *theirs),
            "zeros": partial(torch.zeros, BATCH, CLASSES, *HEATMAP_SHAPE),
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
    parser.add_argument("--fresh-pages", action="store_true", help="malloc as it is")
    parser.add_argument("--peak", choices=["result", "ours", "vectorised"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        print_peak(arguments.peak, arguments.objects[0])
        return
    if not arguments.fresh_pages:
        keep_pages()
    print(f"{name_of(torch.device('cpu'))}, torch {torch.__version__}")
    for count in arguments.objects:
        pool_and_paint(count, arguments.seconds)
        heatmaps(count, arguments.seconds)
        memory(count)
    linearity(arguments.seconds)


if __name__ == "__main__":
    main()

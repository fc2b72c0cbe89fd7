"""Calls of every operator for bench/gpu.py: a random one held to float64, a small one of each."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import torch
from torch import Tensor

from sssd.ops import feature_divergence, label_heatmap, paint_boxes, pool_boxes
from tests.ops import box_accuracy as accuracy
from tests.ops.divergence_cases import (
    FORMATS,
    MEMBERS,
    ON_A_GPU,
    OVER,
    assert_matches_truth,
    make_maps,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CHANNELS = (1, 2, 3, 7, 8, 16, 24, 33, 64, 70, 128, 256, 500)
SIDES = (1, 2, 3, 4, 5, 7, 8, 11, 13, 16, 21, 25, 32, 42, 50)
LONG = (100, 168)  # cells: rows kept by a cluster, or cut into pieces
MOST_ELEMENTS = {"cuda": 1 << 20, "cpu": 1 << 12}  # of a level: a case takes milliseconds


def moved(x: Tensor, shift: bool, device: str) -> Tensor:
    """On the device in its memory format; with `shift` one element off: no vector is whole."""
    if not shift:
        return x.detach().to(device).requires_grad_()
    layout = (0, 2, 3, 1) if not x.is_contiguous() else (0, 1, 2, 3)
    flat = x.detach().permute(layout).reshape(-1)
    memory = torch.empty(flat.numel() + 1, dtype=x.dtype, device=device)[1:].copy_(flat)
    back = [layout.index(d) for d in range(4)]
    return memory.view([x.shape[d] for d in layout]).permute(back).requires_grad_()


def random_divergence(draw: random.Random, device: str, backend: str) -> str:
    """One, on one to four levels; returns what it was."""
    member, over = draw.choice(list(MEMBERS)), draw.choice(OVER)
    layout, dtype = draw.choice(list(FORMATS)), draw.choice(DTYPES)
    images, channels = draw.choice((1, 1, 2, 3)), draw.choice(CHANNELS)
    shapes = [(images, channels, draw.choice(SIDES), draw.choice(SIDES))]
    shapes += [
        (images, channels, draw.choice(SIDES[:9]), draw.choice(SIDES[:9]))
        for _ in range(draw.randrange(4))
    ]
    while images * channels * shapes[0][2] * shapes[0][3] > MOST_ELEMENTS[device]:
        shapes[0] = (images, channels, -(-shapes[0][2] // 2), -(-shapes[0][3] // 2))
        channels = channels if shapes[0][2] > 1 else 1
    if draw.random() < 0.05 and device == "cuda":
        shapes[0] = (1, draw.choice(CHANNELS[:8]), *LONG)
    gap, shift = draw.choice((0.1, 1.0, 4.0)), draw.random() < 0.2
    sides = make_maps(shapes, dtype, FORMATS[layout], draw.randrange(1 << 30), gap)
    student, teacher = ([moved(x, shift, device) for x in side] for side in sides)
    told = f"{member} over {over}, {layout}, {dtype}, {shapes}, gap {gap}, shifted {shift}"
    print(told, flush=True)
    settings = MEMBERS[member] | {"over": over}
    assert_matches_truth(student, teacher, backend, ON_A_GPU, **settings)
    return told


def random_boxes(draw: random.Random, device: str, backend: str) -> str:
    """Pool with its gradient, paint, or a heatmap."""
    kind = draw.choice(("pool", "paint", "heatmap"))
    count, batch = draw.choice((0, 1, 5, 40, 300)), draw.choice((1, 2, 3))
    channels, dtype = draw.choice(CHANNELS[:9]), draw.choice(DTYPES)
    layout = draw.choice(list(FORMATS))
    shapes = [(draw.choice(SIDES), draw.choice(SIDES)) for _ in range(draw.randrange(1, 5))]
    image = (draw.randrange(16, 800), draw.randrange(16, 800))
    told = (
        f"{kind}, {count} objects, {batch} images {image}, {channels}, {layout}, {dtype}, {shapes}"
    )
    print(told, flush=True)
    generator = torch.Generator().manual_seed(draw.randrange(1 << 30))
    limits = torch.tensor([image[1], image[0]])
    centre = torch.rand(count, 2, generator=generator) * limits
    half = torch.rand(count, 2, generator=generator) ** 2 * limits / 2
    boxes = torch.cat([centre - half, centre + half], dim=1).to(device)
    index = torch.randint(0, batch, (count,), generator=generator).to(device)
    where = (boxes, index, image)
    if kind == "heatmap":
        labels = torch.arange(count, device=device) % 5
        profile, combine = draw.choice(list(accuracy.PROFILE)), draw.choice(("max", "sum"))
        scene = (boxes, labels, index, image, shapes, batch)
        heat = label_heatmap(
            *scene, 5, profile=profile, combine=combine, dtype=dtype, backend=backend
        )
        accuracy.check_heatmap(heat, *scene, 5, profile=profile, combine=combine)
    elif kind == "paint":
        values = torch.randn(len(shapes), count, channels, generator=generator).to(device, dtype)
        painted = paint_boxes(
            values, *where, shapes, batch, memory_format=FORMATS[layout], backend=backend
        )
        accuracy.check_paint(painted, values, *where)
    else:
        levels = [
            torch.randn(batch, channels, *shape, generator=generator).to(device, dtype)
            .contiguous(memory_format=FORMATS[layout]).requires_grad_()
            for shape in shapes
        ]  # fmt: skip
        pooled = pool_boxes(levels, *where, backend=backend)
        upstream = torch.randn(pooled.shape, generator=generator).to(device, dtype)
        grads = torch.autograd.grad(pooled, levels, upstream)
        accuracy.check_pool(pooled, levels, *where)
        accuracy.check_paint(grads, upstream, *where, mean=True)
    return told


def random_case(seed: int, device: str, backend: str) -> str:
    """The case of a seed, held to float64; returns what it was.

    Raises:
        AssertionError: it is off.
    """
    draw = random.Random(seed)
    one = random_divergence if draw.random() < 0.7 else random_boxes
    return one(draw, device, backend)


def small_calls(device: str, backend: str) -> Iterator[str]:
    """A call of every kernel, forward and backward, with its name before it runs."""
    shapes = [(2, 24, 5, 7), (1, 16, 8, 8)]
    for member, over, layout in itertools.product(MEMBERS, ("channels", "cells"), FORMATS):
        yield f"{member} over {over}, {layout}"
        one_divergence(shapes, device, backend, layout, torch.bfloat16, member, over)
    for layout in FORMATS:
        yield f"rows of {LONG}, {layout}"
        one_divergence([(1, 8, *LONG)], device, backend, layout, torch.float32, "js", "cells")
    boxes = torch.tensor([[3.0, 4, 90, 80], [10, 20, 30, 60], [0, 0, 0, 0]], device=device)
    index = torch.tensor([0, 1, 0], device=device)
    where, sizes = (boxes, index, (96, 128)), [(12, 16), (6, 8)]
    for (layout, fmt), dtype in itertools.product(FORMATS.items(), DTYPES):
        yield f"boxes, {layout}, {dtype}"
        levels = [torch.ones(2, 40, *s).to(dtype).contiguous(memory_format=fmt) for s in sizes]
        levels = [x.to(device).requires_grad_() for x in levels]
        pooled = pool_boxes(levels, *where, backend=backend)
        painted = paint_boxes(pooled, *where, sizes, 2, memory_format=fmt, backend=backend)
        torch.autograd.grad(painted, levels, [x.detach() for x in levels])
        label_heatmap(boxes, index, index, (96, 128), sizes, 2, 3, dtype=dtype, backend=backend)


def one_divergence(
    shapes: list[tuple[int, int, int, int]], device: str, backend: str, layout: str,
    dtype: torch.dtype, member: str, over: str,
) -> None:  # fmt: skip
    """Forward and backward."""
    sides = make_maps(shapes, dtype, FORMATS[layout])
    student, teacher = ([moved(x, False, device) for x in side] for side in sides)
    settings = MEMBERS[member] | {"over": over, "backend": backend}
    torch.autograd.grad(feature_divergence(student, teacher, **settings), student + teacher)

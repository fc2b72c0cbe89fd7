"""The box operators as the dispatcher knows them: schemas, fakes, gradients.

Pool and paint are each other's gradient, so that both can be differentiated any number of times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from sssd.ops import dispatch

_TRITON = "sssd.ops.triton.boxes"
POOL = "box_pool"
PAINT = "box_paint"
HEATMAP = "label_heatmap"

# Enumerations cross the boundary as numbers, in the order of kernels/boxes/boxes.h.
Profile = Literal["box", "pyramid", "gaussian", "gaussian_legacy"]
Combine = Literal["max", "sum"]
PROFILES, COMBINES = get_args(Profile), get_args(Combine)


def flat(shapes: Sequence[Sequence[int]]) -> list[int]:
    """(height, width) of every level as one list, as the schemas take them."""
    return [side for shape in shapes for side in shape]


def is_channels_last(level: Tensor) -> bool:
    """Whether a map is dense with its channels last, and not also contiguous."""
    return not level.is_contiguous() and level.is_contiguous(memory_format=torch.channels_last)


def new_maps(
    like: Tensor, batch: int, channels: int, shapes: list[int], channels_last: Sequence[int]
) -> list[Tensor]:
    """Uninitialised maps (batch, channels, height, width) of every level."""
    return [
        torch.empty(
            (batch, channels, height, width),
            dtype=like.dtype,
            device=like.device,
            memory_format=torch.channels_last if last else torch.contiguous_format,
        )
        for height, width, last in zip(shapes[::2], shapes[1::2], channels_last, strict=True)
    ]


# ---- pool ----------------------------------------------------------------------------------------


def _pool_fake(
    levels: list[Tensor], boxes: Tensor, image_index: Tensor, image_size: list[int], mean: bool
) -> Tensor:
    return levels[0].new_empty(len(levels), boxes.shape[0], levels[0].shape[1])


def _pool_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    levels, boxes, image_index, ctx.image_size, ctx.mean = inputs
    dispatch.save(ctx, boxes, image_index)
    ctx.batch = levels[0].shape[0]
    ctx.shapes = [tuple(level.shape[2:]) for level in levels]
    ctx.channels_last = [int(is_channels_last(level)) for level in levels]


def _pool_backward(backend: str) -> Any:
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        boxes, image_index = dispatch.saved(ctx)
        wanted = [place for place, need in enumerate(ctx.needs_input_grad[0]) if need]
        painted = dispatch.call(
            PAINT,
            backend,
            # Not grad[wanted]: a list would be copied to an accelerator, which waits for it.
            grad if len(wanted) == len(ctx.shapes) else torch.stack([grad[p] for p in wanted]),
            boxes,
            image_index,
            ctx.image_size,
            flat([ctx.shapes[place] for place in wanted]),
            ctx.batch,
            [ctx.channels_last[place] for place in wanted],
            ctx.mean,
        )
        grads: list[Tensor | None] = [None] * len(ctx.shapes)
        for place, level in zip(wanted, painted, strict=True):
            grads[place] = level
        return grads, None, None, None, None

    return backward


# ---- paint ---------------------------------------------------------------------------------------


def _paint_fake(
    values: Tensor,
    boxes: Tensor,
    image_index: Tensor,
    image_size: list[int],
    shapes: list[int],
    batch: int,
    channels_last: list[int],
    mean: bool,
) -> list[Tensor]:
    return new_maps(values, batch, values.shape[-1], shapes, channels_last)


def _paint_setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    values, boxes, image_index, ctx.image_size, *_, ctx.mean = inputs
    dispatch.save(ctx, boxes, image_index)
    ctx.per_level = values.dim() == 3


def _paint_backward(backend: str) -> Any:
    def backward(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
        boxes, image_index = dispatch.saved(ctx)
        pooled = dispatch.call(POOL, backend, grads, boxes, image_index, ctx.image_size, ctx.mean)
        grad = pooled if ctx.per_level else pooled.sum(0)
        return grad, None, None, None, None, None, None, None

    return backward


# ---- heatmaps ------------------------------------------------------------------------------------


def _heatmap_fake(*args: Any) -> list[Tensor]:
    _, _, _, _, shapes, batch, classes, *_, like = args
    return new_maps(like, batch, classes, shapes, [0] * (len(shapes) // 2))


def _heatmap_setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    pass


def _heatmap_backward(backend: str) -> Any:
    def backward(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
        return (None,) * 13  # a heatmap carries no gradient to boxes or strength

    return backward


dispatch.define(
    "box_pool(Tensor[] levels, Tensor boxes, Tensor image_index, SymInt[] image_size, bool mean)"
    " -> Tensor",
    fake=lambda backend: _pool_fake,
    backward=_pool_backward,
    setup_context=_pool_setup,
    triton_module=_TRITON,
)
dispatch.define(
    "box_paint(Tensor values, Tensor boxes, Tensor image_index, SymInt[] image_size,"
    " SymInt[] shapes, SymInt batch, int[] channels_last, bool mean) -> Tensor[]",
    fake=lambda backend: _paint_fake,
    backward=_paint_backward,
    setup_context=_paint_setup,
    triton_module=_TRITON,
)
dispatch.define(
    "label_heatmap(Tensor boxes, Tensor labels, Tensor image_index, SymInt[] image_size,"
    " SymInt[] shapes, SymInt batch, SymInt classes, int profile, int combine, float min_overlap,"
    " Tensor? assigned, Tensor? strength, Tensor like) -> Tensor[]",
    fake=lambda backend: _heatmap_fake,
    backward=_heatmap_backward,
    setup_context=_heatmap_setup,
    triton_module=_TRITON,
)

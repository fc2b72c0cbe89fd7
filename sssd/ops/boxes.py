"""Pool feature maps over boxes and paint vectors onto them: all levels and images in one call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sssd.ops import box_kernels, dispatch
from sssd.ops.inputs import Maps, as_list
from sssd.ops.objects import (
    check_count,
    check_device,
    check_floating,
    check_level_shapes,
    check_objects,
)
from sssd.ops.reference import boxes as reference


def pool_boxes(
    levels: Maps,
    boxes: Tensor,
    image_index: Tensor,
    image_size: tuple[int, int],
    *,
    check: bool = False,
    backend: str | None = None,
) -> Tensor:
    r"""Mean of each feature map over the cells that each object's box covers.

        pooled[l, t, c] = sum over covered cells (i, j) of levels[l][b_t, c, i, j] / max(1, number)

    Cell (i, j) of level l is at the image point (j W / W_l, i H / H_l); a box covers the cells
    whose point lies in it, border included. A box that contains no such point pools to zero, and so
    does one that is not finite or has no positive width and height.

    Args:
        levels: P maps (B, C, H_l, W_l), contiguous or channels_last, all float32, float64, bfloat16
            or float16; B and C are the same on every level. A list, or a dict in the levels' order.
        boxes: (T, 4) xyxy in pixels of the padded batch, float32 or float64; takes no gradient.
        image_index: (T,) int64 or int32, the image of each box, in any order.
        image_size: (H, W) of the padded batch in pixels.
        check: also read what is on an accelerator, which is waited for, and refuse boxes that are
            not finite, naming the rows. Without it objects on an accelerator that belong to no
            image of the batch are left out.
        backend: "auto", "cuda", "triton", "cpu" or "reference"; None takes the current default.

    Returns:
        (P, T, C) in the dtype of the maps (summed in float32 or better), differentiable in the
        maps, in each map's memory format.

    Raises:
        TypeError: for a dtype that is not served, maps of different dtypes, or what is no list of
            maps.
        ValueError: for shapes, devices or image indices that do not fit, naming the argument.

    Example:
        >>> levels = [torch.ones(1, 8, 4, 4), torch.ones(1, 8, 2, 2)]
        >>> boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0]])
        >>> pool_boxes(levels, boxes, torch.tensor([0]), (16, 16)).shape
        torch.Size([2, 1, 8])

    Source: the appearance embedding of Zhang et al., "LGD", AAAI 2022.
    """
    levels = as_list("levels", levels)
    batch_size = _check_levels(levels, boxes)
    check_objects(boxes, image_index, image_size, batch_size, check=check)
    choice = dispatch.choose(box_kernels.POOL, levels[0], backend)
    if choice.backend == "reference":
        return reference.pool_boxes(levels, boxes, image_index, image_size)
    return dispatch.call(
        box_kernels.POOL,
        choice.backend,
        levels,
        boxes.detach(),
        image_index,
        list(image_size),
        True,
    )


def paint_boxes(
    values: Tensor,
    boxes: Tensor,
    image_index: Tensor,
    image_size: tuple[int, int],
    level_shapes: Sequence[tuple[int, int]],
    batch_size: int,
    *,
    memory_format: torch.memory_format = torch.contiguous_format,
    check: bool = False,
    backend: str | None = None,
) -> list[Tensor]:
    r"""Paint each object's vector onto the cells its box covers; overlapping objects add up.

        painted[l][b, c, i, j] = sum over objects t of image b that cover (i, j) of values[l, t, c]

    The cells a box covers are those of `pool_boxes`, of which this is the adjoint up to the number
    of cells. Cells that no object covers are zero.

    Args:
        values: (T, C), painted on every level, or (P, T, C), one set per level; float32, float64,
            bfloat16 or float16.
        boxes: (T, 4) xyxy in pixels of the padded batch, float32 or float64; takes no gradient.
        image_index: (T,) int64 or int32, the image of each box, in any order.
        image_size: (H, W) of the padded batch in pixels.
        level_shapes: P pairs (H_l, W_l).
        batch_size: number of images B.
        memory_format: torch.contiguous_format or torch.channels_last, of the painted maps.
        check: also read what is on an accelerator, which is waited for, and refuse boxes that are
            not finite, naming the rows. Without it objects on an accelerator that belong to no
            image of the batch are left out.
        backend: "auto", "cuda", "triton", "cpu" or "reference"; None takes the current default.

    Returns:
        P maps (B, C, H_l, W_l) in the dtype of the values, differentiable in the values.

    Raises:
        TypeError: for a dtype that is not served.
        ValueError: for shapes, devices or image indices that do not fit, naming the argument.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [8.0, 0.0, 15.0, 3.0]])
        >>> index = torch.tensor([0, 0])
        >>> maps = paint_boxes(torch.ones(2, 1), boxes, index, (16, 16), [(4, 4), (2, 2)], 1)
        >>> maps[1][0, 0].tolist()
        [[1.0, 2.0], [1.0, 1.0]]

    Source: the intra-object knowledge mapper of Zhang et al., "LGD", AAAI 2022.
    """
    shapes = check_level_shapes(level_shapes)
    check_count("batch_size", batch_size, 0)
    check_objects(boxes, image_index, image_size, batch_size, check=check)
    _check_values(values, boxes, len(shapes))
    if memory_format not in (torch.contiguous_format, torch.channels_last):
        raise ValueError(
            f"memory_format is {memory_format}: pass torch.contiguous_format or torch.channels_last"
        )
    choice = dispatch.choose(box_kernels.PAINT, values, backend)
    if choice.backend == "reference":
        painted = reference.paint_boxes(values, boxes, image_index, image_size, shapes, batch_size)
        return [level.contiguous(memory_format=memory_format) for level in painted]
    return dispatch.call(
        box_kernels.PAINT,
        choice.backend,
        values,
        boxes.detach(),
        image_index,
        list(image_size),
        box_kernels.flat(shapes),
        batch_size,
        [int(memory_format == torch.channels_last)] * len(shapes),
        False,
    )


def _check_levels(levels: Sequence[Tensor], boxes: Tensor) -> int:
    """Refuse maps that do not fit together; return the batch size."""
    if len(levels) == 0:
        raise ValueError("levels is empty: pass at least one feature map (B, C, H, W)")
    first = levels[0]
    for place, level in enumerate(levels):
        check_floating(f"levels[{place}]", level.dtype)
        if level.dtype != first.dtype:
            raise TypeError(
                f"levels[{place}] is {level.dtype} but levels[0] is {first.dtype}: "
                "convert the maps to one dtype"
            )
        if level.shape[:2] != first.shape[:2]:
            raise ValueError(
                f"levels[{place}] has (B, C) = {tuple(level.shape[:2])} but levels[0] has "
                f"{tuple(first.shape[:2])}: all levels must have the same"
            )
        check_device(f"levels[{place}]", level, boxes)
    return first.shape[0]


def _check_values(values: Tensor, boxes: Tensor, count: int) -> None:
    """Refuse values that are not one vector an object, or one an object and level."""
    if values.dim() not in (2, 3) or values.shape[-2] != boxes.shape[0]:
        raise ValueError(
            f"values has shape {tuple(values.shape)} for {boxes.shape[0]} boxes: expected (T, C) "
            "or (P, T, C)"
        )
    if values.dim() == 3 and values.shape[0] != count:
        raise ValueError(
            f"values has {values.shape[0]} levels but level_shapes has {count}: pass (T, C) to "
            "paint the same vectors on every level"
        )
    check_floating("values", values.dtype)
    check_device("values", values, boxes)

"""Objects as the box operators take them: packed over the batch, with an image index each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
Assign = Literal["all", "fpn"] | Sequence[tuple[float, float]]


def pack_boxes(boxes_per_image: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pack the box lists of a batch into one list with an image index.

    Args:
        boxes_per_image: one (T_b, 4) tensor an image, xyxy in pixels of the padded batch, all of
            one dtype and on one device. An image without objects gives a (0, 4) tensor.

    Returns:
        boxes (T, 4) and image_index (T,), int64, on the same device, with no copy from the host.

    Raises:
        ValueError: if the list is empty, or a tensor is not (T_b, 4).

    Example:
        >>> boxes, image_index = pack_boxes([torch.rand(2, 4), torch.rand(0, 4), torch.rand(1, 4)])
        >>> image_index.tolist()
        [0, 0, 2]
    """
    if len(boxes_per_image) == 0:
        raise ValueError("boxes_per_image is empty: pass one (T, 4) tensor per image")
    for image, boxes in enumerate(boxes_per_image):
        if boxes.dim() != 2 or boxes.shape[1] != 4:
            raise ValueError(
                f"boxes_per_image[{image}] has shape {tuple(boxes.shape)}: expected (T, 4), xyxy; "
                "an image without objects is torch.zeros(0, 4)"
            )
    index = [boxes.new_full((len(b),), i, dtype=torch.int64) for i, b in enumerate(boxes_per_image)]
    return torch.cat(list(boxes_per_image)), torch.cat(index)


def to_device(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Small tensors of the host on a device, by one copy out of pinned memory: nothing waits.

    Args:
        tensors: on the host, those of wider dtypes first.
        device: where they are wanted.
    """
    if device.type == "cpu":
        return list(tensors)
    flat = torch.cat([x.contiguous().view(-1).view(torch.uint8) for x in tensors])
    moved = flat.pin_memory().to(device, non_blocking=True)
    parts = moved.split([x.nbytes for x in tensors])
    return [p.view(x.dtype).view(x.shape) for p, x in zip(parts, tensors, strict=True)]


def check_objects(
    boxes: Tensor,
    image_index: Tensor,
    image_size: tuple[int, int],
    batch_size: int,
    *,
    check: bool,
) -> None:
    """Refuse objects that do not fit together or name an image outside the batch.

    Values on the CPU are read. Those on an accelerator are only with `check`, which waits for the
    answer; without it the kernels leave out objects of an image or class that is not there. `check`
    also refuses boxes that are not finite. Under torch.compile nothing is read without it, and a
    RuntimeError comes of what it finds.

    Raises:
        TypeError: for a dtype that is not served.
        ValueError: for shapes, devices or values that do not fit.
    """
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes has shape {tuple(boxes.shape)}: expected (T, 4), xyxy in pixels")
    if boxes.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"boxes is {boxes.dtype}: pass float32 or float64 pixels (16-bit floats cannot "
            "distinguish neighboring pixels of a large image), for example boxes.float()"
        )
    check_per_object("image_index", image_index, boxes)
    if not _is_size(image_size, least=1):
        raise ValueError(
            f"image_size is {image_size}: expected (height, width) of the padded batch, two "
            "whole numbers, at least 1"
        )
    check_range("image_index", image_index, batch_size, "the batch size", check=check)
    check_finite(boxes, check=check)


def check_per_object(name: str, value: Tensor, boxes: Tensor) -> None:
    """Refuse a per-object integer tensor whose shape, dtype or device does not fit the boxes."""
    if value.shape != (boxes.shape[0],):
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}: expected ({boxes.shape[0]},), one per box"
        )
    if value.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{name} is {value.dtype}: pass int64 or int32")
    check_device(name, value, boxes)


def check_device(name: str, value: Tensor, boxes: Tensor) -> None:
    """Refuse a tensor that is not on the device of the boxes."""
    if value.device != boxes.device:
        raise ValueError(
            f"{name} is on {value.device} but boxes is on {boxes.device}: move it with "
            f"{name}.to(boxes.device), or move the boxes"
        )


def _are_whole(*numbers: int) -> bool:
    """Whether they are whole numbers, those of torch.compile's dynamic shapes included."""
    return not any(isinstance(number, float) for number in numbers)


def _whole(number: Any) -> Any:
    """As an int, or as torch.export's unknown, which an int would fix."""
    return number if isinstance(number, int | torch.SymInt) else int(number)


def _is_size(size: Any, least: int) -> bool:
    """Whether it is a height and a width."""
    try:
        height, width = size
    except (TypeError, ValueError):
        return False
    return _are_whole(height, width) and min(height, width) >= least


def check_count(name: str, count: int, least: int) -> None:
    """Refuse what is no number of images or classes."""
    if not _are_whole(count) or count < least:
        raise ValueError(f"{name} is {count}: expected a whole number, at least {least}")


def check_floating(name: str, dtype: torch.dtype) -> None:
    """Refuse what is not one of the floating-point dtypes that are served."""
    if dtype not in FLOATING:
        raise TypeError(f"{name} is {dtype}: expected float32, float64, bfloat16 or float16 values")


def check_range(name: str, value: Tensor, end: int, meaning: str, *, check: bool) -> None:
    """Refuse values outside 0 .. end - 1; those on an accelerator are read only with `check`."""
    if value.numel() == 0 or torch._C._are_functorch_transforms_active():  # none can be read there
        return
    if torch.compiler.is_compiling():
        if check:
            inside = (value >= 0) & (value < end)
            # No number is in the message: one that is formatted would compile anew for each.
            torch._assert_async(inside.all(), f"{name} has a value outside 0 .. {meaning} - 1")
        return
    if value.device.type != "cpu" and not check:
        return
    low, high = torch.aminmax(value)
    if int(low) < 0 or int(high) >= end:
        rows = ((value < 0) | (value >= end)).nonzero()[:, 0].tolist()
        raise ValueError(
            f"{name} has values outside 0 .. {end - 1} ({meaning} is {end}) in {_named(rows)}: "
            f"the first is {int(value[rows[0]])}"
        )


def check_finite(boxes: Tensor, *, check: bool) -> None:
    """Refuse boxes that are not finite; they are read only with `check`."""
    if not check or torch._C._are_functorch_transforms_active():  # none can be read there
        return
    if torch.compiler.is_compiling():
        torch._assert_async(boxes.isfinite().all(), "boxes has non-finite values")
        return
    rows = boxes.detach().isfinite().all(1).logical_not().nonzero()[:, 0].tolist()
    if rows:
        raise ValueError(
            f"boxes has non-finite values in {_named(rows)}: the first is {boxes[rows[0]].tolist()}"
        )


def check_level_shapes(level_shapes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The level shapes as pairs of ints, or a ValueError that names the level."""
    level_shapes = list(level_shapes)
    if len(level_shapes) == 0:
        raise ValueError("level_shapes is empty: pass one (height, width) per level")
    for level, shape in enumerate(level_shapes):
        if not _is_size(shape, least=0):
            raise ValueError(
                f"level_shapes[{level}] is {shape}: expected (height, width), two whole "
                "numbers, not negative"
            )
    return [(_whole(height), _whole(width)) for height, width in level_shapes]


def assigned_levels(
    boxes: Tensor,
    image_size: tuple[int, int],
    level_shapes: Sequence[tuple[int, int]],
    assign: Assign,
) -> Tensor | None:
    """Which objects each level shows, (P, T) bool, None for all; `assign` as in `label_heatmap`."""
    count = len(level_shapes)
    if isinstance(assign, str):
        if assign not in ("all", "fpn"):
            raise ValueError(
                f"assign is {assign!r}: pass 'all', 'fpn', or one (low, high) in pixels per level"
            )
        if assign == "all":
            return None
    corners = boxes.detach().double()
    width, height = (corners[:, 2:] - corners[:, :2]).unbind(1)
    if assign == "fpn":
        first = round(math.log2(max(1.0, image_size[0] / max(1, level_shapes[0][0]))))
        wanted = torch.floor(4 + torch.log2(torch.sqrt(width * height) / 224)) - first  # (T,)
        level = wanted.clamp(0, count - 1).nan_to_num(0.0).long()
        return level == torch.arange(count, device=boxes.device)[:, None]
    if len(assign) != count:
        raise ValueError(
            f"assign has {len(assign)} ranges for {count} levels: pass one (low, high) per level"
        )
    longest = torch.maximum(width, height)
    return torch.stack([(longest >= low) & (longest < high) for low, high in assign])


def _named(rows: list[int]) -> str:
    shown = ", ".join(map(str, rows[:10]))
    return f"row{'s' if len(rows) > 1 else ''} {shown}{', ...' if len(rows) > 10 else ''}"

"""The labelled objects of a batch, packed, and their descriptors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sssd.ops import pack_boxes, paint_boxes, pool_boxes


@dataclass
class Objects:
    """All labelled objects of a batch, packed image after image.

    Attributes:
        boxes: (T, 4) fp32, xyxy in pixels of the padded batch.
        labels: (T,) int64, 0 .. num_classes - 1; -1 for a row that stands for no class.
        image_index: (T,) int64: which image of the batch a row belongs to.
        slot: (T,) int64: place of a row among those of its image.
        counts: rows of each image; on the host, so that no shape waits for the device.
    """

    boxes: Tensor
    labels: Tensor
    image_index: Tensor
    slot: Tensor
    counts: list[int]


def pack_objects(targets: Sequence[dict[str, Tensor]]) -> Objects:
    """Packs the targets of a batch.

    Args:
        targets: for each image "boxes" (n, 4) xyxy in pixels of the padded batch and "labels" (n,).
    """
    boxes, image_index = pack_boxes([t["boxes"].reshape(-1, 4).float() for t in targets])
    counts = [len(target["boxes"]) for target in targets]
    return Objects(
        boxes=boxes,
        labels=torch.cat([target["labels"].reshape(-1).long() for target in targets]),
        image_index=image_index,
        slot=torch.cat([torch.arange(n, device=boxes.device) for n in counts]),
        counts=counts,
    )


def add_context(objects: Objects, image_size: tuple[int, int], *, context: bool) -> Objects:
    """Appends LGD's extra rows, which have no class: the last one of their image.

    With context each image gets a context row, which stands for the whole of it. Its box is the
    batch image, and one pixel in an image without boxes, whose only row it is. Without context such
    an image gets that pixel as a fake object. (LGD drops those images from training; we keep them.)

    Args:
        objects: the labelled objects.
        image_size: (H, W) of the padded batch.
        context: add context rows; without them only empty images get a row.

    Returns:
        The objects first, in their order, then the extra rows in the order of the images.
    """
    height, width = image_size
    device = objects.boxes.device
    extra = [i for i, n in enumerate(objects.counts) if context or n == 0]
    whole, pixel = [0.0, 0.0, float(width), float(height)], [0.0, 0.0, 1.0, 1.0]
    boxes = [whole if objects.counts[i] else pixel for i in extra]
    index = torch.tensor(extra, dtype=torch.int64, device=device)
    slots = torch.tensor([objects.counts[i] for i in extra], dtype=torch.int64, device=device)
    return Objects(
        boxes=torch.cat([objects.boxes, torch.tensor(boxes, device=device).reshape(-1, 4)]),
        labels=torch.cat([objects.labels, torch.full_like(index, -1)]),
        image_index=torch.cat([objects.image_index, index]),
        slot=torch.cat([objects.slot, slots]),
        counts=[n + (context or n == 0) for n in objects.counts],
    )


def clamp_boxes(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Clamps (T, 4) xyxy boxes to [0, W - 1] x [0, H - 1]."""
    height, width = image_size
    return torch.minimum(boxes.clamp_min(0), boxes.new_tensor([width, height] * 2) - 1)


def pool_objects(maps: list[Tensor], objects: Objects, image_size: tuple[int, int]) -> Tensor:
    """Mean of P maps (B, C, H_l, W_l) over the cells of each object, (P, T, C)."""
    boxes = clamp_boxes(objects.boxes, image_size)
    return pool_boxes(maps, boxes, objects.image_index, image_size)


def paint_objects(
    values: Tensor, objects: Objects, image_size: tuple[int, int], maps: list[Tensor]
) -> list[Tensor]:
    """Paints a vector of each object, (T, C) or (P, T, C), onto levels of the maps' sizes.

    Returns:
        P maps (B, C, H_l, W_l), laid out as `maps` are.
    """
    channels_last = maps[0].is_contiguous(memory_format=torch.channels_last)
    return paint_boxes(
        values,
        clamp_boxes(objects.boxes, image_size),
        objects.image_index,
        image_size,
        [(m.shape[-2], m.shape[-1]) for m in maps],
        maps[0].shape[0],
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )


def describe(objects: Objects, num_classes: int, image_size: tuple[int, int]) -> Tensor:
    """Descriptor of each object: 2 [box / (W, H, W, H), one-hot(label)] - 1.

    Args:
        objects: T rows; label -1 gives a zero class vector.
        num_classes: K.
        image_size: (H, W) of the padded batch.

    Returns:
        (T, 4 + K) fp32 in [-1, 1], without gradient (LGD, section 3.2).
    """
    height, width = image_size
    with torch.no_grad():
        boxes = clamp_boxes(objects.boxes, image_size)
        places = boxes / boxes.new_tensor([width, height, width, height])
        classes = F.one_hot(objects.labels + 1, num_classes + 1)[:, 1:].to(places)
        return 2 * torch.cat([places, classes], dim=1) - 1

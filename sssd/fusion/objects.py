"""The labelled objects of a batch, packed, and their descriptors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sssd.ops import paint_boxes, pool_boxes
from sssd.ops.objects import check_finite, check_range, to_device


@dataclass
class Objects:
    """All labelled objects of a batch, packed image after image.

    Attributes:
        boxes: (T, 4) fp32, xyxy in pixels of the padded batch.
        labels: (T,) int64, 0 .. num_classes - 1; -1 for a row that stands for no class.
        image_index: (T,) int64: which image of the batch a row belongs to.
        slot: (T,) int64: place of a row among those of its image.
        counts: rows of each image; on the host, so that no shape waits for the device.
        order: (B,) int64, all images, those without rows first.
        counts_in_order: (B,) int64, their rows.
        labels_on_host: the labels once more, where the host knows them.
    """

    boxes: Tensor
    labels: Tensor
    image_index: Tensor
    slot: Tensor
    counts: list[int]
    order: Tensor
    counts_in_order: Tensor
    labels_on_host: Tensor | None

    def targets(self) -> list[dict[str, Tensor]]:
        """Boxes and labels of each image, on the device of the objects."""
        split = zip(self.boxes.split(self.counts), self.labels.split(self.counts), strict=True)
        return [{"boxes": boxes, "labels": labels} for boxes, labels in split]


def pack_objects(
    targets: Sequence[dict[str, Tensor]],
    device: torch.device | None = None,
    num_classes: int | None = None,
) -> Objects:
    """Packs the targets of a batch; what the host has goes to a device in one copy, asynchronously.

    Args:
        targets: for each image "boxes" (n, 4) xyxy in pixels of the padded batch and "labels" (n,).
        device: where the objects are wanted, if not where the targets are.
        num_classes: labels must be 0 .. num_classes - 1; those on an accelerator are not read.

    Raises:
        ValueError: a label that is not a class; boxes of another format, such as oriented ones, or,
            on the host, not finite; not one label a box.
    """
    for image, target in enumerate(targets):
        shape = tuple(target["boxes"].shape)
        if target["boxes"].numel() and (len(shape) != 2 or shape[1] != 4):
            raise ValueError(
                f"boxes of image {image} have shape {shape}: expected (n, 4), xyxy in pixels"
            )
        if len(target["labels"].reshape(-1)) != len(target["boxes"].reshape(-1, 4)):
            raise ValueError(
                f"image {image} has {len(target['boxes'])} boxes and "
                f"{target['labels'].numel()} labels"
            )
    boxes = torch.cat([target["boxes"].reshape(-1, 4).float() for target in targets])
    labels = torch.cat([target["labels"].reshape(-1).long() for target in targets])
    check_finite(boxes, check=boxes.is_cpu)
    if num_classes is not None:
        check_range("labels", labels, num_classes, "the number of classes", check=False)
    counts = [len(target["boxes"]) for target in targets]
    order = sorted(range(len(counts)), key=lambda image: counts[image] > 0)
    numbers = [
        torch.tensor(rows, dtype=torch.int64)
        for rows in (
            [image for image, n in enumerate(counts) for _ in range(n)],
            [slot for n in counts for slot in range(n)],
            order,
            [counts[image] for image in order],
        )
    ]
    on_host = labels if boxes.is_cpu else None
    if boxes.is_cpu:
        *numbers, labels, boxes = to_device([*numbers, labels, boxes], device or boxes.device)
    else:
        numbers = to_device(numbers, boxes.device)
    image_index, slot, first, rows = numbers
    return Objects(boxes, labels, image_index, slot, counts, first, rows, on_host)


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
        The objects first, in their order, then the extra rows: of images without a box first.
    """
    height, width = image_size
    empty = objects.counts.count(0)
    index = objects.order[: None if context else empty]
    boxes = objects.boxes.new_zeros(len(index), 4)
    boxes[:empty, 2:].fill_(1)
    boxes[empty:, 2].fill_(width)
    boxes[empty:, 3].fill_(height)
    return replace(
        objects,
        boxes=torch.cat([objects.boxes, boxes]),
        labels=torch.cat([objects.labels, torch.full_like(index, -1)]),
        image_index=torch.cat([objects.image_index, index]),
        slot=torch.cat([objects.slot, objects.counts_in_order[: len(index)]]),
        counts=[n + (context or n == 0) for n in objects.counts],
        labels_on_host=None,
    )


def clamp_boxes(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Clamps (T, 4) xyxy boxes to [0, W - 1] x [0, H - 1]."""
    height, width = image_size
    x, y = boxes[:, 0::2].clamp(0, width - 1), boxes[:, 1::2].clamp(0, height - 1)
    return torch.stack([x, y], -1).flatten(1)


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


def descriptors(objects: Objects, num_classes: int, image_size: tuple[int, int]) -> Tensor:
    """Descriptor of each object: 2 [box / (W, H, W, H), one-hot(label)] - 1.

    Args:
        objects: T rows; label -1 gives a zero class vector.
        num_classes: K.
        image_size: (H, W) of the padded batch.

    Returns:
        (T, 4 + K) fp32 in [-1, 1], without gradient: the label descriptors of LGD.
    """
    height, width = image_size
    with torch.no_grad():
        boxes = clamp_boxes(objects.boxes, image_size)
        places = torch.stack([boxes[:, 0::2] / width, boxes[:, 1::2] / height], -1).flatten(1)
        # one_hot would read the labels first.
        classes = objects.labels[:, None] == torch.arange(num_classes, device=boxes.device)
        # A box that is not finite covers no cell; NaN here would reach the embedding's gradients.
        return 2 * torch.cat([places.nan_to_num(), classes.to(places)], dim=1) - 1

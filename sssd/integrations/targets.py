"""Ground truth in the forms that other frameworks hold it."""

import torch
from torch import Tensor

from sssd.ops.objects import to_device


def boxes_in_pixels(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Turns normalised centre boxes (ultralytics, DETR family) into pixels of the padded batch.

    Args:
        boxes: (n, 4) centre x, centre y, width, height as fractions of the image.
        image_size: (H, W) in pixels.

    Returns:
        (n, 4) fp32 xyxy in pixels.

    Raises:
        ValueError: boxes of another form, such as oriented ones, which have an angle too.

    Example:
        >>> boxes_in_pixels(torch.tensor([[0.5, 0.5, 0.5, 1.0]]), (100, 200))
        tensor([[ 50.,   0., 150., 100.]])
    """
    if boxes.numel() and (boxes.dim() != 2 or boxes.shape[1] != 4):
        raise ValueError(
            f"boxes has shape {tuple(boxes.shape)}: expected (n, 4), center x and y, width, "
            "height. For oriented boxes pass the axis-aligned boxes around them"
        )
    height, width = image_size
    boxes = boxes.float().reshape(-1, 4)
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    corners = torch.cat([centre - half, centre + half], 1)
    return torch.stack([corners[:, 0::2] * width, corners[:, 1::2] * height], -1).flatten(1)


def split_by_image(
    boxes: Tensor, labels: Tensor, image_index: Tensor, batch_size: int
) -> list[dict[str, Tensor]]:
    """Splits the flat ground truth of a batch (ultralytics) into one dict an image.

    Args:
        boxes: (T, 4).
        labels: (T,) or (T, 1) classes, of any dtype.
        image_index: (T,) image of each row, of any dtype, in any order.
        batch_size: B; images without rows get empty tensors.

    Returns:
        B dicts of boxes (n, 4) and labels (n,) int64.

    The index is read on the host: pass a copy of the host's where there is one, since one on an
    accelerator is waited for, once.
    """
    index = image_index.reshape(-1).cpu().long()
    index = index.where((index >= 0) & (index < batch_size), batch_size)
    counts = index.bincount(minlength=batch_size + 1).tolist()
    (order,) = to_device([index.argsort(stable=True)], boxes.device)
    split = [rows[order].split(counts) for rows in (boxes, labels.reshape(-1).long())]
    return [{"boxes": b, "labels": c} for b, c in zip(*split, strict=True)][:batch_size]

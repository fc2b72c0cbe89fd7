"""Ground truth in the forms that other frameworks hold it."""

import torch
from torch import Tensor
from torchvision.ops import box_convert


def boxes_in_pixels(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Turns normalised centre boxes (ultralytics, DETR family) into pixels of the padded batch.

    Args:
        boxes: (n, 4) centre x, centre y, width, height as fractions of the image.
        image_size: (H, W) in pixels.

    Returns:
        (n, 4) fp32 xyxy in pixels.

    Example:
        >>> boxes_in_pixels(torch.tensor([[0.5, 0.5, 0.5, 1.0]]), (100, 200))
        tensor([[ 50.,   0., 150., 100.]])
    """
    height, width = image_size
    corners = box_convert(boxes.float().reshape(-1, 4), "cxcywh", "xyxy")
    return corners * corners.new_tensor([width, height, width, height])


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
    """
    rows = [torch.nonzero(image_index.reshape(-1) == i).flatten() for i in range(batch_size)]
    labels = labels.reshape(-1).long()
    return [{"boxes": boxes[row], "labels": labels[row]} for row in rows]

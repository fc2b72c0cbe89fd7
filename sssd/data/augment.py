"""Augmentation of a training sample: transforms of torchvision on an image and its boxes."""

from __future__ import annotations

from typing import Any

from torchvision.transforms import v2


def training_transform(
    flip: float = 0.5, photometric: bool = False, scale: float = 1.0
) -> v2.Transform:
    """Build the augmentation of a training sample; boxes that lose their area are removed.

    Args:
        flip: probability of a horizontal flip; 0 where left and right mean something (digits).
        photometric: change brightness, contrast, saturation and hue, as SSD did.
        scale: largest change of object size, at least 1: half the samples are placed on a canvas
            of up to `scale` times their sides, half are cropped to no less than 1/`scale` of them.

    Returns:
        A transform of (image, target) as `DetectionDataset` gives them; it draws from torch's
        global generator.

    Raises:
        ValueError: a setting out of its range.

    Example:
        >>> transform = training_transform(flip=0.0, scale=1.5)
    """
    if not 0 <= flip <= 1:
        raise ValueError(f"flip is {flip}; it must be a probability between 0 and 1")
    if scale < 1:
        raise ValueError(f"scale is {scale}; it must be at least 1")
    steps: list[v2.Transform] = []
    if photometric:
        steps.append(v2.RandomPhotometricDistort(p=0.5))
    if scale > 1:
        zoom_out = v2.RandomZoomOut(side_range=(1.0, scale), p=1.0)
        crop = _Crop(min_scale=1 / scale, max_scale=1.0)
        steps.append(v2.RandomChoice([zoom_out, crop]))
    if flip > 0:
        steps.append(v2.RandomHorizontalFlip(flip))
    steps += [v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=1.0)]
    return v2.Compose(steps)


class _Crop(v2.RandomIoUCrop):
    """torchvision's, but for images with a side so short that a crop of it may have no pixel."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        if min(v2.query_size(flat_inputs)) * self.min_scale < 1:
            return {}
        return super().make_params(flat_inputs)

"""The resizing of images for torchvision's detectors, for images of any shape."""

import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes


class AnyShapeTransform(GeneralizedRCNNTransform):
    """Torchvision's transform, which fails on an image thinner than max_size : 1.

    Such an image would become less than a pixel thin; here it becomes one pixel thin.

    Args:
        original: the transform whose settings are taken over.
    """

    def __init__(self, original: GeneralizedRCNNTransform) -> None:
        super().__init__(
            original.min_size,
            original.max_size,
            original.image_mean,
            original.image_std,
            original.size_divisible,
            original.fixed_size,
        )

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Resizes one image and its boxes."""
        height, width = image.shape[-2:]
        shorter, longer = sorted((int(height), int(width)))
        if shorter * self.max_size >= 2 * longer:  # two pixels or more are left
            return super().resize(image, target)
        size = tuple(max(1, side * self.max_size // longer) for side in (height, width))
        resized = F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]
        if target is not None:
            target["boxes"] = resize_boxes(target["boxes"], [height, width], list(size))
        return resized, target

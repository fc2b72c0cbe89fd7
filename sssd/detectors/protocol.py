"""The interface of a detector, so that any method can train it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Maps = list[Tensor]  # one (B, C, H_l, W_l) feature map a pyramid level, finest first
Losses = dict[str, Tensor]  # named scalars; what is trained is their sum
Targets = list[dict[str, Tensor]]  # an image: boxes (n, 4) fp32 xyxy in pixels, labels (n,) int64


@dataclass
class Batch:
    """Images as the network sees them, and their targets in the same pixels.

    Attributes:
        tensors: (B, 3, H, W) normalised, resized and padded images.
        sizes: (height, width) of each resized image inside the padded batch.
        original_sizes: (height, width) of each image as it was given.
        targets: boxes and labels in the pixels of `tensors`, on the host or the device as they were
            given (`Method.prepare` moves them); None at inference.
    """

    tensors: Tensor
    sizes: list[tuple[int, int]]
    original_sizes: list[tuple[int, int]]
    targets: Targets | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the padded batch."""
        height, width = self.tensors.shape[-2:]
        return int(height), int(width)


class Detector(nn.Module, ABC):
    """A detector split at its feature pyramid.

    Methods of self-distillation need the pyramid's maps, and need the head to run on other maps of
    the same shapes. Subclass this to train your own detector:

        batch = detector.prepare(images, targets)
        maps = detector.maps(batch)                          # K
        assignment = detector.assign(maps, batch)
        losses = detector.losses(maps, batch, assignment)    # and again on K_e

    Attributes:
        num_classes: number of object classes; labels are 0 .. num_classes - 1.
        width: channels of every map.
        max_detections: the most objects that it finds in an image; None: there is no limit.
    """

    num_classes: int
    width: int
    max_detections: int | None = None

    @property
    @abstractmethod
    def backbone(self) -> nn.Module:
        """The part that pretrained weights are loaded into; without the pyramid."""

    @property
    def pyramid(self) -> nn.Module:
        """The feature pyramid network above the backbone; needed only by LabelEnc."""
        raise NotImplementedError(
            f"{type(self).__name__} does not define which part its pyramid is"
        )

    @property
    def head(self) -> nn.Module:
        """All that is trained above the pyramid; needed by LabelEnc alone."""
        raise NotImplementedError(f"{type(self).__name__} does not define which part its head is")

    @abstractmethod
    def prepare(self, images: Sequence[Tensor], targets: Targets | None = None) -> Batch:
        """Normalises, resizes and pads images ((3, H, W) fp32 in [0, 1]) and moves boxes along.

        In training the images are on the device, the targets on the host.
        """

    @abstractmethod
    def maps(self, batch: Batch) -> Maps:
        """Feature pyramid maps of a batch, finest level first."""

    @abstractmethod
    def assign(self, maps: Maps, batch: Batch) -> Any:
        """Targets assigned to the cells of `maps`; depends only on their shapes.

        Computed once and shared by every `losses` call of a step. None where a detector has
        nothing to share.
        """

    @abstractmethod
    def losses(self, maps: Maps, batch: Batch, assignment: Any) -> Losses:
        """Detection losses of the head run on `maps`, by name."""

    @abstractmethod
    def detections(self, maps: Maps, batch: Batch) -> list[dict[str, Tensor]]:
        """Detections of each image: boxes (n, 4) xyxy in pixels of the original image, scores (n,)
        and labels (n,), best first.
        """

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Detects objects: `prepare`, `maps` and `detections` in one call."""
        batch = self.prepare(images)
        return self.detections(self.maps(batch), batch)

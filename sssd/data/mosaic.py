"""Four images in one: more objects, smaller and cut, in a training sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from sssd.data.dataset import Target

if TYPE_CHECKING:
    from sssd.data.loader import Sample, Transform

CENTRE = (0.3, 0.7)  # of the sides: where the four meet
LARGEST_CUT = 0.6  # a part shows at least this share of the sides that it could show
LEAST_SEEN = 0.1  # share of a box's area: of what is seen less of, nothing is to be learnt


@dataclass(frozen=True)
class MosaicTransform:
    """An augmentation before which a sample may become a mosaic (Bochkovskiy et al., "YOLOv4",
    arXiv 2004.10934); in the last batches none does, so that training ends on images as they are
    (Ge et al., "YOLOX", arXiv 2107.08430).

    Args:
        transform: augmentation of (image, target).
        probability: of a mosaic.
        until: batches of a process after which there are none.
    """

    transform: Transform
    probability: float
    until: float

    def __call__(self, image: torch.Tensor, target: Target) -> Sample:
        """Augments a sample, as it is or a mosaic."""
        return self.transform(image, target)

    def draws(self, batch: int) -> bool:
        """Whether a sample of a batch becomes a mosaic; draws from torch's global generator."""
        return batch < self.until and float(torch.rand(())) < self.probability


def mosaic(samples: Sequence[Sample]) -> Sample:
    """Put four samples together: each is cropped to the shape of its quarter, and shrunk to it.

    Boxes are cut at the edges of their quarter; those of which less than a tenth is left are
    removed. Crowd regions are no targets, here as elsewhere. An image of one row or column, which
    has no quarters, is given back as it is.

    Args:
        samples: four (image, target); the mosaic has the size and the id of the first.

    Returns:
        An image and its target. Numbers are drawn from torch's global generator.
    """
    height, width = samples[0][0].shape[-2:]
    if min(height, width) < 2:
        return samples[0]
    x, y = (max(1, int(_uniform(*CENTRE) * side)) for side in (width, height))
    canvas = samples[0][0].new_empty(samples[0][0].shape)
    boxes, labels = [], []
    quarters = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
    for (left, top, right, bottom), (image, target) in zip(quarters, samples, strict=True):
        part, own, seen = _fitted(image, target["boxes"], (bottom - top, right - left))
        canvas[:, top:bottom, left:right] = part
        boxes.append(own[seen] + own.new_tensor([left, top, left, top]))
        labels.append(target["labels"][seen])
    together = tv_tensors.BoundingBoxes(
        torch.cat(boxes), format="XYXY", canvas_size=(height, width)
    )
    target = samples[0][1] | {"boxes": together, "labels": torch.cat(labels)}
    return tv_tensors.Image(canvas), target


def _fitted(
    image: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A random crop of an image at another size, its boxes in it, and which of them are seen."""
    height, width = image.shape[-2:]
    scale = min(height / size[0], width / size[1]) * _uniform(LARGEST_CUT, 1.0)
    rows, columns = (
        min(max(1, round(s * scale)), most) for s, most in zip(size, (height, width), strict=True)
    )
    top, left = int(_uniform(0, height - rows + 1)), int(_uniform(0, width - columns + 1))
    part = functional.resized_crop(image, top, left, rows, columns, list(size), antialias=True)
    plain = boxes.as_subclass(torch.Tensor) - boxes.new_tensor([left, top, left, top])
    cut = torch.stack(
        [plain[:, 0::2].clamp(0, columns), plain[:, 1::2].clamp(0, rows)], dim=2
    ).flatten(1)
    seen = _area(cut) >= LEAST_SEEN * _area(plain)
    factors = cut.new_tensor([size[1] / columns, size[0] / rows]).repeat(2)
    return part.as_subclass(torch.Tensor), cut * factors, seen & (_area(cut) > 0)


def _area(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))

"""How a network is given its pixels, so that a teacher sees a student's batch as its own."""

from dataclasses import dataclass

import torch
from torch import Tensor

Three = tuple[float, float, float]


@dataclass(frozen=True)
class Pixels:
    """What is done to RGB pixels in 0..1 before the network: (x - mean) / std, maybe as BGR.

    Attributes:
        mean: of red, green and blue.
        std: likewise.
        is_bgr: the network wants blue first.

    Example:
        >>> theirs = Pixels(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        >>> Pixels().into(theirs, torch.full((1, 3, 1, 1), 0.75)).flatten().tolist()
        [1.0, 1.0, 1.0]
    """

    mean: Three = (0.0, 0.0, 0.0)
    std: Three = (1.0, 1.0, 1.0)
    is_bgr: bool = False

    @classmethod
    def of_bytes(cls, mean: Tensor, std: Tensor, *, is_bgr: bool) -> "Pixels":
        """From a network's mean and std of pixels in 0..255, in the order that it wants."""
        first, second = ((x.detach().cpu().flatten() / 255).expand(3) for x in (mean, std))
        if is_bgr:
            first, second = first.flip(0), second.flip(0)
        return cls(_three(first), _three(second), is_bgr)

    def into(self, other: "Pixels", images: Tensor) -> Tensor:
        """A batch (B, 3, H, W) as this network sees it, as another one wants it."""
        if self == other:
            return images
        own, theirs = (
            [torch.tensor(x, device=images.device)[:, None, None] for x in (p.mean, p.std)]
            for p in (self, other)
        )
        rgb = images.float().flip(1) if self.is_bgr else images.float()
        given = (rgb * own[1] + own[0] - theirs[0]) / theirs[1]
        return (given.flip(1) if other.is_bgr else given).to(images.dtype)


def _three(x: Tensor) -> Three:
    red, green, blue = x.tolist()
    return red, green, blue

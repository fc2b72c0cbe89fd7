"""How a network is given its pixels, so that a teacher sees a student's batch as its own."""

from dataclasses import dataclass

import torch
from torch import Tensor

Channels = tuple[float, ...]


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

    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (1.0, 1.0, 1.0)
    is_bgr: bool = False

    @classmethod
    def of_bytes(cls, mean: Tensor, std: Tensor, *, is_bgr: bool) -> "Pixels":
        """From a network's mean and std of pixels in 0..255, in the order that it wants.

        Args:
            mean: of each channel, of any shape, or one number for all three.
            std: likewise.
            is_bgr: they are in the order blue, green, red.
        """
        both = [(x.detach().flatten() / 255).tolist() for x in (mean, std)]
        own, spread = (x * 3 if len(x) == 1 else x for x in both)
        order = -1 if is_bgr else 1
        return cls(tuple(own[::order]), tuple(spread[::order]), is_bgr)

    def into(self, other: "Pixels", images: Tensor) -> Tensor:
        """A batch (B, 3, H, W) as this network sees it, as another one wants it.

        Computed in fp32 or wider and given in the dtype of the images; no device waits for it.
        """
        if self == other:
            return images
        rgb = images.to(torch.promote_types(images.dtype, torch.float32)).unbind(1)
        sides = (self.mean, self.std, other.mean, other.std)
        given = [
            (x * std + mean - their_mean) / their_std
            for x, mean, std, their_mean, their_std in zip(
                rgb[::-1] if self.is_bgr else rgb, *sides, strict=True
            )
        ]
        return torch.stack(given[::-1] if other.is_bgr else given, 1).to(images.dtype)

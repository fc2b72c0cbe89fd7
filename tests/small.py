"""Small detectors and batches that tests of several rooms train with."""

import dataclasses

import torch
from torch import Tensor

from sssd.detectors import Detector, DetectorConfig, build_detector
from sssd.detectors.settings import DetectorName
from sssd.methods import KINDS, MethodConfig

NUM_CLASSES = 5


def small_config(name: DetectorName = "fcos", **changes: object) -> DetectorConfig:
    """A detector of 64 channels on images of 64 pixels."""
    settings = {"backbone": "resnet18", "weights": None, "width": 64, "min_size": (64,)}
    return DetectorConfig(name=name, max_size=96, **{**settings, **changes})


def small_detector(name: DetectorName = "fcos", seed: int = 0) -> Detector:
    """The detector of `small_config` with weights of a seed."""
    torch.manual_seed(seed)
    return build_detector(small_config(name), NUM_CLASSES)


def images_and_targets(seed: int = 0) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two images of different sizes, the second without boxes."""
    generator = torch.Generator().manual_seed(seed)
    images = [
        torch.rand(3, 60, 72, generator=generator),
        torch.rand(3, 64, 64, generator=generator),
    ]
    boxes = torch.tensor([[4.0, 4.0, 30.0, 34.0], [20.0, 10.0, 70.0, 58.0]])
    targets = [
        {"boxes": boxes, "labels": torch.tensor([1, NUM_CLASSES - 1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    return images, targets


def method_config(name: str, **settings: object) -> MethodConfig:
    """Settings of a method; those that it does not have are left out."""
    kind = KINDS[MethodConfig][name]
    known = {field.name for field in dataclasses.fields(kind)}
    config = kind(**{option: value for option, value in settings.items() if option in known})
    assert isinstance(config, MethodConfig)
    return config

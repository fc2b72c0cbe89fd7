"""Detectors of a few layers without batch norm, which train a step in milliseconds."""

from collections import OrderedDict
from pathlib import Path

import torch
from rich.console import Console
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from sssd.data import DetectionDataset
from sssd.detectors import Detector
from sssd.detectors.settings import DetectorName
from sssd.detectors.torchvision import FasterRCNNDetector, FCOSDetector, RetinaNetDetector
from sssd.engine.loop import Trainer
from sssd.engine.settings import EngineConfig
from sssd.methods import Method
from sssd.schedules import ScheduleConfig

QUIET = Console(quiet=True)
WIDTH = 64
SIZES = {"min_size": (64,), "max_size": 96}


def tiny_detector(name: DetectorName = "fcos", classes: int = 2, seed: int = 0) -> Detector:
    """A detector with weights of a seed; its body has one convolution a level."""
    torch.manual_seed(seed)
    if name == "fasterrcnn":
        backbone = _backbone(4, 4, LastLevelMaxPool())
        parts = {
            "box_head": TwoMLPHead(WIDTH * 7 * 7, WIDTH),
            "box_predictor": FastRCNNPredictor(WIDTH, classes + 1),
        }
        return FasterRCNNDetector(FasterRCNN(backbone, **parts, **SIZES), classes)
    backbone = _backbone(8, 3, LastLevelP6P7(WIDTH, WIDTH))
    if name == "retinanet":
        return RetinaNetDetector(RetinaNet(backbone, classes, **SIZES), classes)
    return FCOSDetector(FCOS(backbone, classes, **SIZES), classes)


def train(
    method: Method,
    dataset: DetectionDataset,
    folder: Path,
    config: EngineConfig,
    schedule: ScheduleConfig,
    console: Console | None = QUIET,
) -> Trainer:
    """Trains a method to the end, and evaluates it on the data it has learnt from."""
    trainer = Trainer(method, dataset, dataset, folder, config, schedule, console=console)
    trainer.run()
    return trainer


def _backbone(stride: int, levels: int, last: nn.Module) -> BackboneWithFPN:
    stages = [nn.Sequential(nn.Conv2d(3, 16, stride, stride), nn.ReLU())]
    stages += [nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU()) for _ in range(levels - 1)]
    body = nn.Sequential(OrderedDict((f"stage{i}", stage) for i, stage in enumerate(stages)))
    returned = {f"stage{i}": str(i) for i in range(levels)}
    return BackboneWithFPN(body, returned, [16] * levels, WIDTH, last)

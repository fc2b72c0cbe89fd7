"""From settings to a detector."""

from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet

from sssd.detectors.backbones import build_backbone
from sssd.detectors.protocol import Detector
from sssd.detectors.settings import BackboneName, DetectorConfig
from sssd.detectors.torchvision import (
    FasterRCNNDetector,
    FCOSDetector,
    RetinaNetDetector,
    TorchvisionDetector,
)
from sssd.detectors.transform import AnyShapeTransform
from sssd.detectors.weights import load_weights


def build_detector(config: DetectorConfig, num_classes: int) -> Detector:
    """Builds a detector for `num_classes` object classes, labels 0 .. num_classes - 1.

    Raises:
        ValueError: settings or weights that do not fit.
        OSError: weights that cannot be downloaded or read.
    """
    detector = _build(config, num_classes)
    detector.model.transform = AnyShapeTransform(detector.model.transform)
    if config.start_from is not None:
        load_weights(detector.model, config.start_from, "--detector.start-from")
    return detector


def _build(config: DetectorConfig, num_classes: int) -> TorchvisionDetector:
    backbone = build_backbone(
        config.backbone,
        config.weights,
        config.width,
        finest_level=2 if config.name == "fasterrcnn" else 3,
        frozen_stages=config.frozen_stages,
        p6_from=config.p6_from,
    )
    mean, std = normalisation(config.backbone)
    sizes = {
        "min_size": config.min_size,
        "max_size": config.max_size,
        "image_mean": mean,
        "image_std": std,
    }
    if config.name == "fcos":
        # 0.05 as the other two have it: torchvision's 0.2 would hide what evaluation counts.
        return FCOSDetector(FCOS(backbone, num_classes, score_thresh=0.05, **sizes), num_classes)
    if config.name == "retinanet":
        return RetinaNetDetector(RetinaNet(backbone, num_classes, **sizes), num_classes)
    return FasterRCNNDetector(FasterRCNN(backbone, num_classes + 1, **sizes), num_classes)


def normalisation(backbone: BackboneName) -> tuple[list[float], list[float]]:
    """Mean and standard deviation, of pixels in [0, 1], that the backbone was trained with."""
    if backbone == "efficientnet_lite0":
        return [127 / 255] * 3, [128 / 255] * 3
    return [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

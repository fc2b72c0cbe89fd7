"""Detectors cut at their feature pyramid."""

from sssd.detectors.build import DetectorConfig, build_detector
from sssd.detectors.protocol import (
    Batch,
    Detector,
    Losses,
    Maps,
    Targets,
)

__all__ = [
    "Batch",
    "Detector",
    "DetectorConfig",
    "Losses",
    "Maps",
    "Targets",
    "build_detector",
]

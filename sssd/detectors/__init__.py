"""Detectors cut at their feature pyramid."""

from typing import TYPE_CHECKING

from sssd.lazy import names_of

__all__ = [
    "Batch",
    "Detector",
    "DetectorConfig",
    "Losses",
    "Maps",
    "Targets",
    "build_detector",
]

if TYPE_CHECKING:
    from sssd.detectors.build import build_detector
    from sssd.detectors.protocol import Batch, Detector, Losses, Maps, Targets
    from sssd.detectors.settings import DetectorConfig
else:
    __getattr__, __dir__ = names_of(
        globals(),
        {
            "sssd.detectors.build": "build_detector",
            "sssd.detectors.protocol": "Batch Detector Losses Maps Targets",
            "sssd.detectors.settings": "DetectorConfig",
        },
    )

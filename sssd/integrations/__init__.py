"""Distillation in the detectors of other frameworks."""

from sssd.distillation import SelfDistillation, TeacherDistillation
from sssd.integrations.attach import attach, detach
from sssd.integrations.tap import Tap
from sssd.integrations.targets import boxes_in_pixels, split_by_image

__all__ = [
    "SelfDistillation",
    "Tap",
    "TeacherDistillation",
    "attach",
    "boxes_in_pixels",
    "detach",
    "split_by_image",
]

"""Smooth self-distillation inside other people's detectors."""

from sssd.distillation import SelfDistillation
from sssd.integrations.tap import Tap
from sssd.integrations.targets import boxes_in_pixels, split_by_image

__all__ = ["SelfDistillation", "Tap", "boxes_in_pixels", "split_by_image"]

"""Smooth and stepwise self-distillation for object detection, and the fused operators behind it."""

__version__ = "0.1.0"

"""Distillation of any detector, on torch alone: by itself and its labels, or by a teacher."""

from sssd.distillation.core import Distilled, HeadLosses, SelfDistillation, zero_for
from sssd.distillation.running_state import running_state_kept
from sssd.distillation.stepwise import Stepwise
from sssd.distillation.teacher import TeacherDistillation

__all__ = [
    "Distilled",
    "HeadLosses",
    "SelfDistillation",
    "Stepwise",
    "TeacherDistillation",
    "running_state_kept",
    "zero_for",
]

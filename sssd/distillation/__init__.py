"""Distillation of any detector, with only torch: from itself and its labels, or from a teacher."""

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

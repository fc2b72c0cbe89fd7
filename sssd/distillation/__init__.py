"""Label-guided self-distillation of any detector, on torch alone."""

from sssd.distillation.core import Distilled, SelfDistillation, zero_for
from sssd.distillation.running_state import running_state_kept

__all__ = ["Distilled", "SelfDistillation", "running_state_kept", "zero_for"]

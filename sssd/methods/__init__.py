"""Ways to train a detector."""

from sssd.detectors import Detector
from sssd.methods.base import FusionConfig, Method, MethodConfig, StepResult
from sssd.methods.lgd import LGD
from sssd.methods.plain import Plain
from sssd.methods.sssd import SSSD
from sssd.schedules import ScheduleConfig


def build_method(detector: Detector, config: MethodConfig, schedule: ScheduleConfig) -> Method:
    """The method that a config names, around a detector."""
    if config.name == "plain":
        return Plain(detector, schedule)
    return {"sssd": SSSD, "lgd": LGD}[config.name](detector, config, schedule)


__all__ = [
    "LGD",
    "SSSD",
    "FusionConfig",
    "Method",
    "MethodConfig",
    "Plain",
    "StepResult",
    "build_method",
]

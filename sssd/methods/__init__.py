"""Ways to train a detector."""

from collections.abc import Callable

from sssd.detectors import Detector
from sssd.methods.base import Comparison, FusionConfig, Method, MethodConfig, StepResult
from sssd.methods.labelenc import LabelEncStep1, LabelEncStep2
from sssd.methods.lgd import LGD
from sssd.methods.plain import Plain
from sssd.methods.sssd import SSSD
from sssd.schedules import ScheduleConfig


def build_method(detector: Detector, config: MethodConfig, schedule: ScheduleConfig) -> Method:
    """The method that a config names, around a detector."""
    methods: dict[str, Callable[[Detector, MethodConfig, ScheduleConfig], Method]] = {
        "plain": Plain,
        "sssd": SSSD,
        "lgd": LGD,
        "labelenc_step1": LabelEncStep1,
        "labelenc_step2": LabelEncStep2,
    }
    return methods[config.name](detector, config, schedule)


__all__ = [
    "LGD",
    "SSSD",
    "Comparison",
    "FusionConfig",
    "LabelEncStep1",
    "LabelEncStep2",
    "Method",
    "MethodConfig",
    "Plain",
    "StepResult",
    "build_method",
]

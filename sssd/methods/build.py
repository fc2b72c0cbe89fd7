"""From settings to a method."""

from sssd.detectors import Detector
from sssd.methods.base import Method
from sssd.methods.labelenc import LabelEncStep1, LabelEncStep2
from sssd.methods.lgd import LGD
from sssd.methods.settings import (
    LabelEncStep1Config,
    LabelEncStep2Config,
    LGDConfig,
    MethodConfig,
    PlainConfig,
    SSSDConfig,
)
from sssd.methods.sssd import SSSD
from sssd.schedules import ScheduleConfig

METHODS: dict[type[MethodConfig], type[Method]] = {
    PlainConfig: Method,
    SSSDConfig: SSSD,
    LGDConfig: LGD,
    LabelEncStep1Config: LabelEncStep1,
    LabelEncStep2Config: LabelEncStep2,
}


def build_method(detector: Detector, config: MethodConfig, schedule: ScheduleConfig) -> Method:
    """The method that some settings are of, around a detector."""
    return METHODS[type(config)](detector, config, schedule)

"""Ways to train a detector."""

from sssd.detectors import Detector
from sssd.methods.base import Comparison, Method, MethodConfig, NamedConfig, PlainConfig, StepResult
from sssd.methods.distill import (
    DistillingConfig,
    FusionConfig,
    LabelGuidedConfig,
    PaintedConfig,
    RelationConfig,
)
from sssd.methods.labelenc import (
    LabelEncStep1,
    LabelEncStep1Config,
    LabelEncStep2,
    LabelEncStep2Config,
)
from sssd.methods.lgd import LGD, LGDConfig
from sssd.methods.sssd import SSSD, SSSDConfig
from sssd.schedules import ScheduleConfig

METHODS: dict[type[MethodConfig], type[Method]] = {
    PlainConfig: Method,
    SSSDConfig: SSSD,
    LGDConfig: LGD,
    LabelEncStep1Config: LabelEncStep1,
    LabelEncStep2Config: LabelEncStep2,
}
KINDS: dict[type[NamedConfig], dict[str, type[NamedConfig]]] = {
    MethodConfig: {kind.name: kind for kind in METHODS},
    FusionConfig: {kind.name: kind for kind in (RelationConfig, PaintedConfig)},
}
"""The classes of settings that are chosen by name."""


def build_method(detector: Detector, config: MethodConfig, schedule: ScheduleConfig) -> Method:
    """The method that some settings are of, around a detector."""
    return METHODS[type(config)](detector, config, schedule)


__all__ = [
    "KINDS",
    "LGD",
    "METHODS",
    "SSSD",
    "Comparison",
    "DistillingConfig",
    "FusionConfig",
    "LGDConfig",
    "LabelEncStep1",
    "LabelEncStep1Config",
    "LabelEncStep2",
    "LabelEncStep2Config",
    "LabelGuidedConfig",
    "Method",
    "MethodConfig",
    "NamedConfig",
    "PaintedConfig",
    "PlainConfig",
    "RelationConfig",
    "SSSDConfig",
    "StepResult",
    "build_method",
]

"""Ways to train a detector."""

from typing import TYPE_CHECKING

from sssd.lazy import names_of

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

if TYPE_CHECKING:
    from sssd.methods.base import Comparison, Method, StepResult
    from sssd.methods.build import METHODS, build_method
    from sssd.methods.labelenc import LabelEncStep1, LabelEncStep2
    from sssd.methods.lgd import LGD
    from sssd.methods.settings import (
        KINDS,
        DistillingConfig,
        FusionConfig,
        LabelEncStep1Config,
        LabelEncStep2Config,
        LabelGuidedConfig,
        LGDConfig,
        MethodConfig,
        NamedConfig,
        PaintedConfig,
        PlainConfig,
        RelationConfig,
        SSSDConfig,
    )
    from sssd.methods.sssd import SSSD
else:
    __getattr__, __dir__ = names_of(
        globals(),
        {
            "sssd.methods.base": "Comparison Method StepResult",
            "sssd.methods.build": "METHODS build_method",
            "sssd.methods.labelenc": "LabelEncStep1 LabelEncStep2",
            "sssd.methods.lgd": "LGD",
            "sssd.methods.settings": (
                "KINDS DistillingConfig FusionConfig LGDConfig LabelEncStep1Config "
                "LabelEncStep2Config LabelGuidedConfig MethodConfig NamedConfig "
                "PaintedConfig PlainConfig RelationConfig SSSDConfig"
            ),
            "sssd.methods.sssd": "SSSD",
        },
    )

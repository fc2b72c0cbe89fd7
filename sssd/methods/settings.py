"""Settings of the methods, which a command line shows: without torch, which takes seconds."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from sssd.schedules import CoefficientConfig

MethodName = Literal["plain", "sssd", "lgd", "labelenc_step1", "labelenc_step2"]
FusionName = Literal["relation", "painted"]
AdapterName = Literal["full", "separable", "none"]


@dataclass(frozen=True, kw_only=True)
class NamedConfig:
    """Settings of one of several kinds: a class each, which `name` tells apart."""

    name: str = ""

    def __post_init__(self) -> None:
        """Refuses another class's name."""
        if self.name != type(self).name:
            raise ValueError(f"{type(self).__name__} is {type(self).name!r}, not {self.name!r}")


@dataclass(frozen=True, kw_only=True)
class MethodConfig(NamedConfig):
    """How the detector is trained."""

    name: MethodName = "plain"
    """plain: no distillation. sssd: Jensen-Shannon distance to label-enhanced maps. lgd: squared
    error instead. labelenc: a label encoder, trained in step 1, guides a new detector in step 2. A
    method other than the recipe's has its own settings; between sssd and lgd the start of
    distillation and the time of a frozen backbone stay."""


@dataclass(frozen=True, kw_only=True)
class PlainConfig(MethodConfig):
    """The detector alone."""


@dataclass(frozen=True, kw_only=True)
class DistillingConfig(MethodConfig):
    """Settings of every method that distils."""

    coefficient: CoefficientConfig = field(default_factory=CoefficientConfig)
    """The distillation coefficient lambda."""


@dataclass(frozen=True, kw_only=True)
class FusionConfig(NamedConfig):
    """The component that makes label-enhanced maps K_e."""

    name: FusionName = "painted"
    """relation: LGD's attention between objects. painted: labels painted onto the maps, which is
    cheaper."""


@dataclass(frozen=True, kw_only=True)
class PaintedConfig(FusionConfig):
    """Labels painted onto the maps: `PaintedFusion`."""


@dataclass(frozen=True, kw_only=True)
class RelationConfig(FusionConfig):
    """LGD's relations between objects: `RelationFusion`."""

    name: FusionName = "relation"

    context: bool = True
    """Add LGD's context object, which stands for the whole image."""

    detach: bool = False
    """Keep the gradient of the detection losses on K_e from reaching the backbone."""


@dataclass(frozen=True, kw_only=True)
class LabelGuidedConfig(DistillingConfig):
    """Settings that SSSD and LGD share; the defaults are LGD's."""

    fusion: FusionConfig = field(default_factory=RelationConfig)
    """Makes the implicit teacher's maps from the student's maps and the labels."""

    adapter: AdapterName = "full"
    """Adapter on the student's maps before the distance. full: three 3x3 convolutions, as in LGD.
    separable: three separable ones, which are cheaper. none: the distance compares K itself."""

    teacher_every: int = 1
    """Run the head on K_e only every so many iterations."""

    frozen_backbone: int = 0
    """Freeze the backbone for this many iterations at the start."""

    def __post_init__(self) -> None:
        """Refuses what has no meaning."""
        super().__post_init__()
        if self.adapter not in get_args(AdapterName):
            names = ", ".join(get_args(AdapterName))
            raise ValueError(f"--method.adapter is {self.adapter!r}; it must be one of {names}")
        if self.teacher_every < 1:
            raise ValueError(f"--method.teacher-every is {self.teacher_every}; it must be >= 1")
        if self.frozen_backbone < 0:
            raise ValueError(f"--method.frozen-backbone is {self.frozen_backbone}; it must be >= 0")


@dataclass(frozen=True, kw_only=True)
class SSSDConfig(LabelGuidedConfig):
    """SSSD: Jensen-Shannon distance between softmaxes of the maps."""

    name: MethodName = "sssd"
    # Both are the cheap ones. Without an adapter the distance does nothing (docs/results.md: 300
    # iterations at 64 channels).
    fusion: FusionConfig = field(default_factory=PaintedConfig)
    adapter: AdapterName = "separable"

    over: Literal["channels", "cells"] = "channels"
    """Softmax over the channels of each cell, or over the cells of each channel. Not given in the
    paper."""

    temperature: float = 1.0
    """Temperature of the softmax. Not given in the paper."""

    root: Literal["level", "row"] | None = "level"
    """level: square root of a level's mean divergence. row: mean of the square roots of its rows.
    None: no square root."""

    elements: Literal["sum", "mean"] = "sum"
    """Sum or mean of the divergence over the elements of a row (PyTorch's kl_div with "mean"). The
    mean makes the root sqrt(row length) times smaller: lambda 75 with the mean over 256 channels is
    75 / 16 = 4.7 with the sum. Not given in the paper."""

    def __post_init__(self) -> None:
        """Refuses what has no meaning."""
        super().__post_init__()
        if self.temperature <= 0:
            raise ValueError(f"--method.temperature is {self.temperature}; it must be > 0")


@dataclass(frozen=True, kw_only=True)
class LGDConfig(LabelGuidedConfig):
    """LGD: squared error between standardised maps."""

    name: MethodName = "lgd"


@dataclass(frozen=True, kw_only=True)
class LabelEncStep1Config(DistillingConfig):
    """LabelEnc, step 1: the detector and a label encoder train one head."""

    name: MethodName = "labelenc_step1"


@dataclass(frozen=True, kw_only=True)
class LabelEncStep2Config(DistillingConfig):
    """LabelEnc, step 2: a new detector is drawn towards the encoded labels."""

    name: MethodName = "labelenc_step2"

    step1_weights: Path | None = None
    """The `step1.safetensors` from the folder of a labelenc_step1 run; required."""


KINDS: dict[type[NamedConfig], dict[str, type[NamedConfig]]] = {
    MethodConfig: {
        kind.name: kind
        for kind in (PlainConfig, SSSDConfig, LGDConfig, LabelEncStep1Config, LabelEncStep2Config)
    },
    FusionConfig: {kind.name: kind for kind in (RelationConfig, PaintedConfig)},
}
"""The classes of settings that are chosen by name."""

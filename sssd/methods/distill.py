"""Distillation from labels: what SSSD, LGD and LabelEnc have in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from sssd.detectors import Batch, Detector, Maps, Targets
from sssd.distillation import SelfDistillation
from sssd.distillation.core import HeadLosses, Watch
from sssd.fusion import Adapter, Objects, PaintedFusion, RelationFusion
from sssd.methods.base import Comparison, Method, MethodConfig, NamedConfig, StepResult
from sssd.methods.gradients import GradientShares, without_gradient
from sssd.schedules import CoefficientConfig, ScheduleConfig

FusionName = Literal["relation", "painted"]
AdapterName = Literal["full", "separable", "none"]
Metrics = dict[str, Tensor | float]


@dataclass(frozen=True, kw_only=True)
class DistillingConfig(MethodConfig):
    """Settings of every method that distils."""

    coefficient: CoefficientConfig = field(default_factory=CoefficientConfig)
    """The distillation coefficient lambda."""


@dataclass(frozen=True, kw_only=True)
class FusionConfig(NamedConfig):
    """The component that makes label-enhanced maps K_e."""

    name: FusionName = "painted"
    """relation: LGD's attention between the objects. painted: labels painted onto the maps, which
    is cheaper."""


@dataclass(frozen=True, kw_only=True)
class PaintedConfig(FusionConfig):
    """Labels painted onto the maps: `PaintedFusion`."""


@dataclass(frozen=True, kw_only=True)
class RelationConfig(FusionConfig):
    """LGD's relations between objects: `RelationFusion`."""

    name: FusionName = "relation"

    context: bool = True
    """A row that stands for the whole image."""

    detach: bool = False
    """Keep the detection losses on K_e from reaching the backbone."""


@dataclass(frozen=True, kw_only=True)
class LabelGuidedConfig(DistillingConfig):
    """Settings that SSSD and LGD share; the defaults are LGD's."""

    fusion: FusionConfig = field(default_factory=RelationConfig)
    """From maps and labels to the implicit teacher's maps."""

    adapter: AdapterName = "full"
    """Three 3x3 convolutions on the student's side of the distance, as LGD has them; or separable
    ones, which are cheaper; or none."""

    teacher_every: int = 1
    """Run the head on K_e every so many iterations."""

    frozen_backbone: int = 0
    """Iterations, from the first, in which the backbone is not trained."""

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


class Distilling(Method, ABC):
    """Draws the detector's maps K towards maps that know the labels, beside its own losses.

    With a lambda of 0 it is plain training, bit for bit.
    """

    config: DistillingConfig
    kinds: tuple[str, ...] = ("detection", "distillation")  # of loss, whose gradients are measured

    def forward(self, images: Sequence[Tensor], targets: Targets, iteration: int) -> StepResult:
        """Detection losses on K and what the method adds to them: see `Method.forward`."""
        if self.config.coefficient.is_off:
            return StepResult(super().forward(images, targets, iteration).losses, {"lambda": 0.0})
        batch, objects = self.prepare(images, targets)
        maps = self.maps(batch, iteration)  # K
        assignment = self.detector.assign(maps, batch)
        shares = GradientShares(self.kinds, maps, self.watches_gradients)
        watched = shares.watch("detection", maps)
        losses = self.detection_losses("detection", watched, batch, assignment)
        added, metrics = self.distil(
            maps,
            objects,
            batch.image_size,
            lambda other: self.detection_losses("teacher", other, batch, assignment),
            iteration,
            shares.watch,
        )
        return StepResult({**losses, **added}, metrics | shares.metrics())

    def maps(self, batch: Batch, iteration: int) -> Maps:
        """K, P maps (B, C, H_l, W_l)."""
        return self.detector.maps(batch)

    @abstractmethod
    def distil(
        self,
        maps: Maps,
        objects: Objects,
        image_size: tuple[int, int],
        head_losses: HeadLosses,
        iteration: int,
        watch: Watch,
    ) -> tuple[Mapping[str, Tensor], Metrics]:
        """The losses beside those on K, and metrics: see `SelfDistillation.distil`."""

    @abstractmethod
    def pair(self, maps: Maps, objects: Objects, image_size: tuple[int, int]) -> tuple[Maps, Maps]:
        """K behind the adapter, and the maps made with the labels."""

    @abstractmethod
    def sides(self, student: Maps, teacher: Maps) -> tuple[Maps, Maps]:
        """A `pair` as the distance sees it: normalised where it does that first."""

    def cell_distances(self, student: Maps, teacher: Maps) -> tuple[Maps, str]:
        """What each cell of two `sides` has in the distance, P maps (B, H_l, W_l), and its name."""
        pairs = zip(student, teacher, strict=True)
        return [(s - t).square().mean(1) for s, t in pairs], "squared error"

    @torch.no_grad()
    def compare(self, images: Sequence[Tensor], targets: Targets) -> Comparison | None:
        """Both sides of the distance, and its cells: see `Method.compare`."""
        if self.config.coefficient.is_off:
            return None
        batch, objects = self.prepare(images, targets)
        maps = self.detector.maps(batch)
        student, teacher = self.sides(*self.pair(maps, objects, batch.image_size))
        return Comparison(batch, student, teacher, *self.cell_distances(student, teacher))


class LabelGuided(Distilling):
    """Trains a detector by `SelfDistillation`: beside an implicit teacher made of K and the labels.

        L = L_det(K) + L_det(K_e) + lambda * distance(adapter(K), stop_gradient(K_e))

    Which loss trains what, and when, stands at `SelfDistillation`. The backbone is trained by
    nothing in its first `frozen_backbone` iterations.
    """

    config: LabelGuidedConfig
    kinds = ("detection", "teacher", "distillation")

    def __init__(
        self, detector: Detector, config: LabelGuidedConfig, schedule: ScheduleConfig
    ) -> None:
        super().__init__(detector, config, schedule)
        self.distillation = SelfDistillation(
            detector.num_classes,
            detector.width,
            coefficient=config.coefficient,
            milestones=schedule.milestones,
            fusion=build_fusion(config.fusion, detector.num_classes, detector.width),
            adapter=build_adapter(config.adapter, detector.width),
            distance=self.distances,
            teacher_every=config.teacher_every,
        )

    @abstractmethod
    def distances(self, student: Maps, teacher: Maps) -> tuple[Tensor, Tensor]:
        """The distance, and what each level contributes to it (P,)."""

    def maps(self, batch: Batch, iteration: int) -> Maps:
        """K; without gradient for the backbone while it is frozen."""
        frozen = iteration < self.config.frozen_backbone
        with without_gradient(self.detector.backbone) if frozen else nullcontext():
            return self.detector.maps(batch)

    def distil(
        self,
        maps: Maps,
        objects: Objects,
        image_size: tuple[int, int],
        head_losses: HeadLosses,
        iteration: int,
        watch: Watch,
    ) -> tuple[Mapping[str, Tensor], Metrics]:
        """The head's losses on K_e, and the distance: see `Distilling.distil`."""
        detector = self.detector
        distilled = self.distillation.distil(
            maps, objects, image_size, head_losses, detector, detector.backbone,
            step=iteration, watch=watch,
        )  # fmt: skip
        losses = {**distilled.teacher, "distillation": distilled.distillation}
        return losses, distilled.metrics

    def pair(self, maps: Maps, objects: Objects, image_size: tuple[int, int]) -> tuple[Maps, Maps]:
        """K behind the adapter, and K_e: see `Distilling.pair`."""
        part = self.distillation
        return [part.adapter(m) for m in maps], part.fusion(maps, objects, image_size)

    def resting(self, iteration: int) -> list[nn.Module]:
        """Backbone, fusion and adapter while nothing trains them: see `Method.resting`."""
        if self.config.coefficient.is_off:
            return []
        frozen = iteration < self.config.frozen_backbone
        return [self.detector.backbone] * frozen + self.distillation.resting(iteration)


def build_fusion(config: FusionConfig, num_classes: int, width: int) -> nn.Module:
    """The fusion component of some settings."""
    if isinstance(config, RelationConfig):
        return RelationFusion(num_classes, width, context=config.context, detach=config.detach)
    return PaintedFusion(num_classes, width)


def build_adapter(name: AdapterName, width: int) -> nn.Module:
    """The adapter of a name."""
    return nn.Identity() if name == "none" else Adapter(width, separable=name == "separable")


def standardize(maps: Maps) -> Maps:
    """Instance norm: zero mean and unit (biased) variance over the cells of each channel.

    Maps of one cell, which `nn.functional.instance_norm` refuses, become zero but for rounding.

    Returns:
        Contiguous fp32 maps.
    """
    return [
        torch.instance_norm(
            m.float(),
            weight=None,
            bias=None,
            running_mean=None,
            running_var=None,
            use_input_stats=True,
            momentum=0.0,
            eps=1e-5,
            cudnn_enabled=False,
        )
        for m in maps
    ]

"""Distillation from labels in training: what SSSD, LGD and LabelEnc have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sssd.detectors import Detector, Maps, Targets
from sssd.distillation import SelfDistillation
from sssd.fusion import Adapter, PaintedFusion, RelationFusion
from sssd.losses import standardized_mse
from sssd.methods.base import Comparison, Method, StepResult
from sssd.methods.gradients import GradientShares, without_gradient
from sssd.methods.settings import (
    AdapterName,
    DistillingConfig,
    FusionConfig,
    LabelGuidedConfig,
    RelationConfig,
)
from sssd.schedules import ScheduleConfig

KINDS_OF_LOSS = ("detection", "teacher", "distillation")


class Distilling(Method, ABC):
    """Puts `SelfDistillation` into training: draws K towards maps K_e that know the labels.

        L = L_det(K) + L_det(K_e) + lambda * distance(adapter(K), stop_gradient(K_e))

    Which loss trains what, and when, stands at `SelfDistillation`.

    Args:
        detector: the student.
        config: settings of the method.
        schedule: the learning rate's, which the coefficient follows.
        fusion: makes K_e.
        adapter: on the student's side of the distance.
        options: other settings of `SelfDistillation`.
    """

    config: DistillingConfig

    def __init__(
        self,
        detector: Detector,
        config: DistillingConfig,
        schedule: ScheduleConfig,
        fusion: nn.Module,
        adapter: nn.Module,
        **options: Any,
    ) -> None:
        super().__init__(detector, config, schedule)
        self.distillation = SelfDistillation(
            detector.num_classes,
            detector.width,
            coefficient=config.coefficient,
            milestones=schedule.milestones,
            fusion=fusion,
            adapter=adapter,
            distance=self.distances,
            **options,
        )

    @property
    def teacher(self) -> nn.Module | None:
        """The fusion; None where lambda is 0 throughout, which trains none."""
        return None if self.distillation.coefficient.is_off else self.distillation.fusion

    def export(self) -> dict[str, nn.Module]:
        """The fusion, which makes a teacher of the detector: see `Method.export`.

        As it was in the last iteration: a moving average is kept of the detector alone.
        """
        return {} if self.teacher is None else {"teacher": self.teacher}

    @abstractmethod
    def distances(self, student: Maps, teacher: Maps) -> tuple[Tensor, Tensor]:
        """The distance, and what each level contributes to it (P,)."""

    def sides(self, student: Maps, teacher: Maps) -> tuple[Maps, Maps]:
        """The maps as the distance sees them: normalised where it does that first."""
        return student, teacher

    def cell_distances(self, student: Maps, teacher: Maps) -> tuple[Maps, str]:
        """What each cell of two `sides` has in the distance, P maps (B, H_l, W_l), and its name."""
        pairs = zip(student, teacher, strict=True)
        return [(s - t).square().mean(1) for s, t in pairs], "squared error"

    def is_frozen(self, iteration: int) -> bool:
        """Whether nothing trains the backbone at an iteration."""
        return False

    def forward(self, images: Sequence[Tensor], targets: Targets, iteration: int) -> StepResult:
        """Detection losses on K and K_e and the distance between them: see `Method.forward`."""
        if self.distillation.coefficient.is_off:
            return StepResult(super().forward(images, targets, iteration).losses, {"lambda": 0.0})
        batch, objects = self.prepare(images, targets)
        frozen = self.is_frozen(iteration)
        with without_gradient(self.detector.backbone) if frozen else nullcontext():
            maps = self.detector.maps(batch)  # K
        assignment = self.detector.assign(maps, batch)
        shares = GradientShares(KINDS_OF_LOSS, maps, self.watches_gradients)
        watched = shares.watch("detection", maps)
        losses = self.detection_losses("detection", watched, batch, assignment)
        distilled = self.distillation.distil(
            maps,
            objects,
            batch.image_size,
            lambda enhanced: self.detection_losses("teacher", enhanced, batch, assignment),
            self.detector,
            self.detector.backbone,
            step=iteration,
            watch=shares.watch,
        )
        losses |= distilled.teacher | {"distillation": distilled.distillation}
        return StepResult(losses, distilled.metrics | shares.metrics())

    def resting(self, iteration: int) -> list[nn.Module]:
        """Backbone, fusion and adapter while nothing trains them: see `Method.resting`."""
        if self.distillation.coefficient.is_off:
            return []
        frozen = [self.detector.backbone] * self.is_frozen(iteration)
        return frozen + self.distillation.resting(iteration)

    @torch.no_grad()
    def compare(self, images: Sequence[Tensor], targets: Targets) -> Comparison | None:
        """K after the adapter, and K_e, as the distance sees them: see `Method.compare`."""
        if self.distillation.coefficient.is_off:
            return None
        batch, objects = self.prepare(images, targets)
        maps = self.detector.maps(batch)
        enhanced: Maps = self.distillation.fusion(maps, objects, batch.image_size)
        adapted = [self.distillation.adapter(m) for m in maps]
        student, teacher = self.sides(adapted, enhanced)
        return Comparison(batch, student, teacher, *self.cell_distances(student, teacher))


class LabelGuided(Distilling):
    """K_e is made of K and the labels, an implicit teacher; a backbone may be frozen at first."""

    config: LabelGuidedConfig

    def __init__(
        self, detector: Detector, config: LabelGuidedConfig, schedule: ScheduleConfig
    ) -> None:
        fusion = build_fusion(config.fusion, detector.num_classes, detector.width)
        adapter = build_adapter(config.adapter, detector.width)
        every = config.teacher_every
        super().__init__(detector, config, schedule, fusion, adapter, teacher_every=every)

    def is_frozen(self, iteration: int) -> bool:
        """Whether the first iterations, without the backbone, last still."""
        return iteration < self.config.frozen_backbone


def build_fusion(config: FusionConfig, num_classes: int, width: int) -> nn.Module:
    """The fusion component of some settings."""
    if isinstance(config, RelationConfig):
        return RelationFusion(num_classes, width, context=config.context, detach=config.detach)
    return PaintedFusion(num_classes, width)


def build_adapter(name: AdapterName, width: int) -> nn.Module:
    """The adapter of a name."""
    return nn.Identity() if name == "none" else Adapter(width, separable=name == "separable")


def squared_error(
    student: Maps, teacher: Maps, over: Literal["cells", "image"]
) -> tuple[Tensor, Tensor]:
    """The sum of `standardized_mse` over the levels, a scalar, and the part of each level, (P,)."""
    by_level = standardized_mse(student, teacher, over=over)
    return by_level.sum(), by_level


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

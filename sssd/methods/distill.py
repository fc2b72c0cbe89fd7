"""Label-guided self-distillation: what SSSD and LGD have in common."""

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from sssd.detectors import Detector, Maps, Targets
from sssd.distillation import SelfDistillation
from sssd.fusion import Adapter, HeatmapFusion, RelationFusion
from sssd.methods.base import (
    AdapterName,
    Comparison,
    FusionConfig,
    Method,
    MethodConfig,
    StepResult,
)
from sssd.methods.gradients import GradientShares, without_gradient
from sssd.schedules import ScheduleConfig


def build_fusion(config: FusionConfig, num_classes: int, width: int) -> nn.Module:
    """The fusion component that a config names."""
    if config.name == "heatmap":
        return HeatmapFusion(num_classes, width, detach=config.detach)
    return RelationFusion(num_classes, width, context=config.context, detach=config.detach)


def build_adapter(name: AdapterName, width: int) -> nn.Module:
    """The adapter that a config names."""
    return nn.Identity() if name == "none" else Adapter(width, separable=name == "separable")


class LabelGuided(Method):
    """Trains a detector by `SelfDistillation`: beside an implicit teacher made of K and the labels.

        L = L_det(K) + L_det(K_e) + lambda * distance(adapter(K), stop_gradient(K_e))

    The detection losses on K train the backbone, pyramid and head; which of the others trains what,
    and when, stands at `SelfDistillation`. The backbone is trained by nothing in its first
    `frozen_backbone` iterations.
    """

    def __init__(self, detector: Detector, config: MethodConfig, schedule: ScheduleConfig) -> None:
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

    @abstractmethod
    def sides(self, student: Maps, teacher: Maps) -> tuple[Maps, Maps]:
        """The maps as the distance sees them: instance-normalised where it does that first."""

    @abstractmethod
    def cell_distances(self, student: Maps, teacher: Maps) -> tuple[Maps, str]:
        """What each cell of two `sides` has in the distance, P maps (B, H_l, W_l), and its name."""

    def forward(self, images: Sequence[Tensor], targets: Targets, iteration: int) -> StepResult:
        """Detection losses on K and K_e and the distance between them: see `Method.forward`."""
        batch, objects = self.prepare(images, targets)
        if self.distillation.coefficient.is_off:
            maps = self.detector.maps(batch)
            assignment = self.detector.assign(maps, batch)
            losses = self.detection_losses("detection", maps, batch, assignment)
            return StepResult(losses, {"lambda": 0.0})

        frozen = iteration < self.config.frozen_backbone
        with without_gradient(self.detector.backbone) if frozen else nullcontext():
            maps = self.detector.maps(batch)  # K
        assignment = self.detector.assign(maps, batch)
        kinds = ("detection", "teacher", "distillation")
        shares = GradientShares(kinds, maps, self.watches_gradients)
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
        frozen = iteration < self.config.frozen_backbone
        return [self.detector.backbone] * frozen + self.distillation.resting(iteration)

    @torch.no_grad()
    def compare(self, images: Sequence[Tensor], targets: Targets) -> Comparison | None:
        """K behind the adapter, and K_e, as the distance sees them: see `Method.compare`."""
        if self.distillation.coefficient.is_off:
            return None
        batch, objects = self.prepare(images, targets)
        maps = self.detector.maps(batch)
        enhanced: Maps = self.distillation.fusion(maps, objects, batch.image_size)
        adapted = [self.distillation.adapter(m) for m in maps]
        student, teacher = self.sides(adapted, enhanced)
        cells, name = self.cell_distances(student, teacher)
        return Comparison(batch, student, teacher, cells, name)


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

"""Label-guided self-distillation: what SSSD and LGD have in common."""

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from sssd.detectors import Detector, Maps, Targets
from sssd.fusion import Adapter, HeatmapFusion, RelationFusion
from sssd.methods.base import (
    AdapterName,
    Comparison,
    FusionConfig,
    Method,
    MethodConfig,
    StepResult,
)
from sssd.methods.gradients import GradientShares, without_gradient, zero_for
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
    """Trains a detector beside an implicit teacher made of its own maps and the labels.

    K_e = fusion(K, labels) goes through the shared head; a distance draws the student's maps
    towards it:

        L = L_det(K) + L_det(K_e) + lambda * distance(adapter(K), stop_gradient(K_e))

    Which loss trains what: detection on K the backbone, pyramid and head; detection on K_e the
    head, the fusion and, unless detached, the backbone through the fusion's view of K; the
    distance the adapter, if there is one, and, from the coefficient's start on, the backbone and
    pyramid. The backbone is trained by nothing in its first `frozen_backbone` iterations. From the
    coefficient's stop on there is only L_det(K), and no fusion, second pass or adapter is computed.
    Every iteration gives the same parameters a gradient, be it zero: what DDP needs (it goes on
    sending zeros for what rests).
    """

    def __init__(self, detector: Detector, config: MethodConfig, schedule: ScheduleConfig) -> None:
        super().__init__(detector, config, schedule)
        self.fusion = build_fusion(config.fusion, detector.num_classes, detector.width)
        self.adapter = build_adapter(config.adapter, detector.width)
        if config.coefficient.is_off:  # no gradient will come: DDP must not wait for one
            self.fusion.requires_grad_(False)
            self.adapter.requires_grad_(False)

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
        if self.config.coefficient.is_off:
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

        if self.config.coefficient.has_stopped(iteration):
            losses["distillation"] = zero_for(self.fusion, self.adapter)
            return StepResult(losses, {"lambda": 0.0, **shares.metrics()})

        taught = self._is_taught(iteration)
        with torch.set_grad_enabled(taught):
            sources = shares.watch("teacher", maps)
            enhanced: Maps = self.fusion(sources, objects, batch.image_size)  # K_e
        if taught:
            losses |= self.detection_losses("teacher", enhanced, batch, assignment)

        coefficient = self.config.coefficient.at(iteration, self.schedule)
        started = iteration >= self.config.coefficient.start
        student = shares.watch("distillation", maps) if started else [m.detach() for m in maps]
        adapted = [self.adapter(m) for m in student]
        distance, by_level = self.distances(adapted, [m.detach() for m in enhanced])
        losses["distillation"] = coefficient * distance
        if not taught:
            losses["distillation"] = losses["distillation"] + zero_for(self.fusion)
        acting = self.config.coefficient.acting(iteration, self.schedule)
        metrics: dict[str, Tensor | float] = {"lambda": acting}
        metrics |= {f"distance/level{i}": d for i, d in enumerate(by_level.detach().unbind())}
        return StepResult(losses, metrics | shares.metrics())

    def _is_taught(self, iteration: int) -> bool:
        """Whether the head sees K_e.

        Counted from 1, as the iterations that are logged are: every n-th is taught and shown.
        """
        stopped = self.config.coefficient.has_stopped(iteration)
        return not stopped and (iteration + 1) % self.config.teacher_every == 0

    def resting(self, iteration: int) -> list[nn.Module]:
        """Backbone, fusion and adapter while nothing trains them: see `Method.resting`."""
        coefficient = self.config.coefficient
        if coefficient.is_off:
            return []
        rests = (
            (self.detector.backbone, iteration < self.config.frozen_backbone),
            (self.fusion, not self._is_taught(iteration)),
            (self.adapter, coefficient.at(iteration, self.schedule) == 0),
        )
        return [part for part, rested in rests if rested]

    @torch.no_grad()
    def compare(self, images: Sequence[Tensor], targets: Targets) -> Comparison | None:
        """K behind the adapter, and K_e, as the distance sees them: see `Method.compare`."""
        if self.config.coefficient.is_off:
            return None
        batch, objects = self.prepare(images, targets)
        maps = self.detector.maps(batch)
        enhanced: Maps = self.fusion(maps, objects, batch.image_size)
        student, teacher = self.sides([self.adapter(m) for m in maps], enhanced)
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

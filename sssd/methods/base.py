"""What all methods share: settings, the result of a step, the base class."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor, nn

from sssd.detectors import Batch, Detector, Losses, Maps, Targets
from sssd.fusion import Objects, pack_objects
from sssd.schedules import CoefficientConfig, ScheduleConfig

MethodName = Literal["plain", "sssd", "lgd", "labelenc_step1", "labelenc_step2"]
AdapterName = Literal["full", "separable", "none"]


@dataclass(frozen=True)
class FusionConfig:
    """The component that makes label-enhanced maps K_e."""

    name: Literal["relation", "heatmap"] = "relation"
    """LGD's relations between objects, or the cheaper painted labels."""

    context: bool = True
    """Relation only: a row that stands for the whole image."""

    detach: bool = False
    """Keep the detection losses on K_e from reaching the backbone."""


@dataclass(frozen=True)
class MethodConfig:
    """How the detector is trained; what `plain` does not use it ignores."""

    name: MethodName = "sssd"
    """plain: the detector alone. sssd: Jensen-Shannon distance. lgd: standardised MSE. labelenc:
    an encoder of the labels, trained in step 1, draws a new detector in step 2."""

    coefficient: CoefficientConfig = field(default_factory=CoefficientConfig)
    """The distillation coefficient lambda."""

    fusion: FusionConfig = field(default_factory=FusionConfig)
    """From maps and labels to the implicit teacher's maps."""

    over: Literal["channels", "cells"] = "channels"
    """sssd: one distribution a cell over its channels, or a channel over its cells. The paper is
    silent."""

    temperature: float = 1.0
    """sssd: temperature of the softmax. The paper is silent."""

    root: Literal["level", "row", "none"] = "level"
    """sssd: root of a level's mean divergence, mean of the rows' roots, or no root."""

    reduction: Literal["row", "element"] = "row"
    """sssd: divergence of a row as a sum over its elements, or their mean (as PyTorch's kl_div
    with "mean"), which makes a root of it sqrt(row length) times smaller: lambda 75 of the mean
    over 256 channels is 75 / 16 = 4.7 of the sum. The paper is silent."""

    levels: Literal["equal", "cells"] = "equal"
    """sssd: weight of a level in the distance, 1/P each (then a cell of a coarse level is drawn
    hardest) or its share of all cells. What the paper's N counts it does not say."""

    normalize: bool = False
    """sssd: instance norm of both sides before the softmax."""

    adapter: AdapterName = "full"
    """sssd, lgd: three 3x3 convolutions on the student's side of the distance, as LGD has them; or
    separable ones, which are cheaper; or none."""

    teacher_every: int = 1
    """sssd, lgd: run the head on K_e every so many iterations."""

    frozen_backbone: int = 0
    """sssd, lgd: iterations, from the first, in which the backbone is not trained."""

    step1_weights: Path | None = None
    """labelenc_step2: the `step1.safetensors` in the folder of a run of labelenc_step1."""

    def __post_init__(self) -> None:
        """Refuses what has no meaning."""
        if self.adapter not in get_args(AdapterName):
            names = ", ".join(get_args(AdapterName))
            raise ValueError(f"--method.adapter is {self.adapter!r}; it must be one of {names}")
        if self.temperature <= 0:
            raise ValueError(f"--method.temperature is {self.temperature}; it must be > 0")
        if self.teacher_every < 1:
            raise ValueError(f"--method.teacher-every is {self.teacher_every}; it must be >= 1")
        if self.frozen_backbone < 0:
            raise ValueError(f"--method.frozen-backbone is {self.frozen_backbone}; it must be >= 0")


class StepResult(NamedTuple):
    """What one training step yields.

    Attributes:
        losses: named scalars ("detection/...", "teacher/...", "distillation"); their sum is what
            is trained.
        metrics: detached scalars that are only looked at, after the backward pass: those named
            "gradient..." are filled in by it.
    """

    losses: Losses
    metrics: dict[str, Tensor | float]


class Comparison(NamedTuple):
    """What a method draws towards each other, for people to look at.

    Attributes:
        batch: the images as the network sees them.
        student: P maps (B, C, H_l, W_l): K as it enters the distance, behind adapter and norm.
        teacher: P maps of the same shapes, made from the labels: K_e, likewise.
        cells: P maps (B, H_l, W_l), what each cell has in the distance.
        name: what `cells` hold.
    """

    batch: Batch
    student: Maps
    teacher: Maps
    cells: Maps
    name: str


class Method(nn.Module, ABC):
    """A way to train a detector: everything DDP wraps, and nothing of loops or files.

    Args:
        detector: the student.
        config: settings of the method.
        schedule: the learning rate's, which the coefficient follows.

    Attributes:
        detector: the student; all that is left at inference.
        config: the settings, which a resumed run must share.
        watches_gradients: whether the next step measures the norms among its metrics, which cost
            time; without it they are zero.
    """

    watches_gradients: bool = True

    def __init__(self, detector: Detector, config: MethodConfig, schedule: ScheduleConfig) -> None:
        super().__init__()
        self.detector = detector
        self.config = config
        self.schedule = schedule

    @property
    def teacher(self) -> nn.Module | None:
        """What makes the implicit teacher's maps K_e of (maps, objects, image_size), if any."""
        return None

    @abstractmethod
    def forward(self, images: Sequence[Tensor], targets: Targets, iteration: int) -> StepResult:
        """Losses of a batch at an iteration.

        Args:
            images: B images (3, H, W) fp32 in [0, 1].
            targets: for each image boxes (n, 4) xyxy in its pixels and labels (n,).
            iteration: optimiser steps taken before this one.
        """

    def resting(self, iteration: int) -> list[nn.Module]:
        """Parts that no loss trains at an iteration.

        DistributedDataParallel waits for their gradients, which are zero. The loop takes them away
        before the optimizer's step: a gradient of 0 would let weight decay and momentum move the
        part, and AdamW count a step whose missing square makes those after it too large.
        """
        return []

    def compare(self, images: Sequence[Tensor], targets: Targets) -> Comparison | None:
        """The maps that the method draws towards each other; None if there are none.

        Args:
            images: B images (3, H, W) fp32 in [0, 1].
            targets: for each image boxes (n, 4) xyxy in its pixels and labels (n,).
        """
        return None

    def export(self) -> dict[str, nn.Module]:
        """Parts beside the detector that a run leaves for others, by the name of their file."""
        return {}

    def prepare(self, images: Sequence[Tensor], targets: Targets) -> tuple[Batch, Objects]:
        """The batch as the network sees it, and its objects.

        Targets may stay on the host, where the detector resizes them: they follow the images by one
        copy that nothing waits for.

        Args:
            images: B images (3, H, W) fp32 in [0, 1].
            targets: for each image boxes (n, 4) xyxy in its pixels and labels (n,).

        Raises:
            ValueError: a label on the host that is no class.
        """
        batch = self.detector.prepare(images, targets)
        assert batch.targets is not None
        objects = pack_objects(batch.targets, batch.tensors.device, self.detector.num_classes)
        pairs = zip(batch.targets, objects.targets(), strict=True)
        batch.targets = [{**target, **moved} for target, moved in pairs]
        return batch, objects

    def detection_losses(self, kind: str, maps: Maps, batch: Batch, assignment: Any) -> Losses:
        """Losses of the shared head on some maps, named "kind/loss"."""
        losses = self.detector.losses(maps, batch, assignment)
        return {f"{kind}/{name.removeprefix('loss_')}": loss for name, loss in losses.items()}

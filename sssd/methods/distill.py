"""Label-guided self-distillation: what SSSD and LGD have in common."""

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from sssd.detectors import Detector, Maps, Targets
from sssd.fusion import HeatmapFusion, RelationFusion, conv3x3, pack_objects
from sssd.methods.base import FusionConfig, Method, MethodConfig, StepResult
from sssd.schedules import ScheduleConfig


class Adapter(nn.Sequential):
    """Three 3x3 convolutions on the student's maps, shared by the levels (LGD, section 3.5)."""

    def __init__(self, width: int) -> None:
        super().__init__(conv3x3(width), nn.ReLU(), conv3x3(width), nn.ReLU(), conv3x3(width))


def build_fusion(config: FusionConfig, num_classes: int, width: int) -> nn.Module:
    """The fusion component that a config names."""
    if config.name == "heatmap":
        return HeatmapFusion(num_classes, width, detach=config.detach)
    return RelationFusion(num_classes, width, context=config.context, detach=config.detach)


class LabelGuided(Method):
    """Trains a detector beside an implicit teacher made of its own maps and the labels.

    K_e = fusion(K, labels) goes through the shared head; a distance draws the student's maps
    towards it:

        L = L_det(K) + L_det(K_e) + lambda * distance(adapter(K), stop_gradient(K_e))

    Which loss trains what: detection on K the backbone, pyramid and head; detection on K_e the
    head, the fusion and, unless detached, the backbone through the fusion's view of K; the
    distance the adapter and, from the coefficient's start on, the backbone and pyramid.

    Args:
        detector: the student.
        config: settings of the method.
        schedule: the learning rate's, which the coefficient follows.
    """

    def __init__(self, detector: Detector, config: MethodConfig, schedule: ScheduleConfig) -> None:
        super().__init__(detector, schedule)
        self.config = config
        self.fusion = build_fusion(config.fusion, detector.num_classes, detector.width)
        self.adapter: nn.Module = Adapter(detector.width) if config.adapter else nn.Identity()
        if config.coefficient.is_off:  # no gradient will come: DDP must not wait for one
            self.fusion.requires_grad_(False)
            self.adapter.requires_grad_(False)

    @abstractmethod
    def distances(self, student: Maps, teacher: Maps) -> tuple[Tensor, Tensor]:
        """The distance, and what each level contributes to it (P,)."""

    def forward(self, images: Sequence[Tensor], targets: Targets, iteration: int) -> StepResult:
        """Detection losses on K and K_e and the distance between them: see `Method.forward`."""
        batch = self.detector.prepare(images, targets)
        maps = self.detector.maps(batch)  # K
        assignment = self.detector.assign(maps, batch)
        losses = self.detection_losses("detection", maps, batch, assignment)
        if self.config.coefficient.is_off:
            return StepResult(losses, {"lambda": 0.0})

        assert batch.targets is not None
        objects = pack_objects(batch.targets)
        enhanced: Maps = self.fusion(maps, objects, batch.image_size)  # K_e
        if iteration % self.config.teacher_every == 0:
            losses |= self.detection_losses("teacher", enhanced, batch, assignment)

        coefficient = self.config.coefficient.at(iteration, self.schedule)
        started = iteration >= self.config.coefficient.start
        student = [self.adapter(m if started else m.detach()) for m in maps]
        distance, by_level = self.distances(student, [m.detach() for m in enhanced])
        losses["distillation"] = coefficient * distance
        metrics: dict[str, Tensor | float] = {"lambda": coefficient}
        metrics |= {f"distance/level{i}": d for i, d in enumerate(by_level.detach().unbind())}
        return StepResult(losses, metrics)


def standardize(maps: Maps) -> Maps:
    """Instance norm: zero mean and unit (biased) variance over the cells of each channel.

    Unlike `nn.functional.instance_norm` it takes maps of one cell, which become zero.
    """
    centred = [m.float() - m.float().mean((2, 3), keepdim=True) for m in maps]
    return [m * (m.square().mean((2, 3), keepdim=True) + 1e-5).rsqrt() for m in centred]

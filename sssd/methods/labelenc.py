"""LabelEnc (Hao et al., ECCV 2020, arXiv 2007.03282): a label encoder trained first, then a
detector drawn towards its maps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork

from sssd.detectors import Detector, Maps
from sssd.detectors.weights import load_weights
from sssd.distillation import running_state_kept, zero_for
from sssd.distillation.core import HeadLosses, Watch
from sssd.fusion import Adapter, ColorMapEncoder, Objects, normalize_map
from sssd.losses import standardized_mse
from sssd.methods.base import MethodName
from sssd.methods.distill import Distilling, DistillingConfig, Metrics
from sssd.schedules import ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class LabelEncStep1Config(DistillingConfig):
    """LabelEnc, step 1: the detector and a label encoder train one head."""

    name: MethodName = "labelenc_step1"


@dataclass(frozen=True, kw_only=True)
class LabelEncStep2Config(DistillingConfig):
    """LabelEnc, step 2: a new detector is drawn towards the encoded labels."""

    name: MethodName = "labelenc_step2"

    step1_weights: Path | None = None
    """The `step1.safetensors` in the folder of a run of labelenc_step1; needed."""


class LabelEnc(Distilling):
    """What both steps share: the label encoder, the adapter, and the distance between maps.

        distance = mean of (GN(adapter(k)) - stop_gradient(GN(k_label)))^2

    with GN a group norm of one group without affine part, and one mean over all elements of all
    levels. While the coefficient is zero, before its `start` and from its `stop` on, the distance
    is not computed, and the adapter rests: weight decay would shrink it.
    """

    shares_head = False  # whether the head is trained on the encoded labels too

    def __init__(
        self, detector: Detector, config: DistillingConfig, schedule: ScheduleConfig
    ) -> None:
        super().__init__(detector, config, schedule)
        pyramid = detector.pyramid
        if not isinstance(pyramid, FeaturePyramidNetwork):
            raise ValueError(
                f"--method.name {config.name}: LabelEnc copies torchvision's feature pyramid, and "
                f"{type(detector).__name__} has a {type(pyramid).__name__}"
            )
        self.encoder = ColorMapEncoder(detector.num_classes, pyramid)
        self.adapter = Adapter(detector.width)
        if config.coefficient.is_off:  # no gradient will come: DDP must not wait for one
            self.encoder.requires_grad_(False)
            self.adapter.requires_grad_(False)

    def distil(
        self,
        maps: Maps,
        objects: Objects,
        image_size: tuple[int, int],
        head_losses: HeadLosses,
        iteration: int,
        watch: Watch,
    ) -> tuple[Mapping[str, Tensor], Metrics]:
        """The distance to the encoded labels, and the head's losses on them in step 1."""
        coefficient = self.config.coefficient.acting(iteration, self.schedule.milestones)
        losses: dict[str, Tensor] = {}
        metrics: Metrics = {"lambda": coefficient}
        if self.shares_head or coefficient:
            encoded = self.encode(objects, image_size)
        if self.shares_head:
            with running_state_kept(self.detector, self.detector.backbone):
                losses |= head_losses(encoded)
        if coefficient:
            student = [self.adapter(m) for m in watch("distillation", maps)]
            by_level = standardized_mse(student, [m.detach() for m in encoded], over="image")
            losses["distillation"] = coefficient * by_level.sum()
            metrics |= {f"distance/level{i}": d for i, d in enumerate(by_level.detach().unbind())}
        else:
            losses["distillation"] = zero_for(self.adapter)
        return losses, metrics

    def resting(self, iteration: int) -> list[nn.Module]:
        """The adapter while the distance weighs nothing: see `Method.resting`."""
        return (
            []
            if self.config.coefficient.acting(iteration, self.schedule.milestones)
            else [self.adapter]
        )

    def pair(self, maps: Maps, objects: Objects, image_size: tuple[int, int]) -> tuple[Maps, Maps]:
        """K behind the adapter, and the encoded labels: see `Distilling.pair`."""
        return [self.adapter(m) for m in maps], self.encoder(objects, image_size)

    def sides(self, student: Maps, teacher: Maps) -> tuple[Maps, Maps]:
        """Normalised over each map, as the operator does on the way: see `Distilling.sides`."""
        return [normalize_map(m.float()) for m in student], [
            normalize_map(m.float()) for m in teacher
        ]

    def encode(self, objects: Objects, image_size: tuple[int, int]) -> Maps:
        """Maps of the labels."""
        return self.encoder(objects, image_size)


class EncoderAndHead(nn.Module):
    """The parts that step 1 hands to step 2, under names that do not depend on the detector."""

    def __init__(self, method: LabelEnc) -> None:
        super().__init__()
        self.encoder = method.encoder
        self.head = method.detector.head


class LabelEncStep1(LabelEnc):
    """Step 1: the detector and the label encoder train one head together.

        L = L_det(K) + L_det(K_label) + lambda * distance,  lambda = 0 before its start

    Each box's v in the colour map is multiplied by min(1, 2 u), u ~ U(0, 1).
    """

    shares_head = True

    def encode(self, objects: Objects, image_size: tuple[int, int]) -> Maps:
        """Maps of the labels, each box of a random strength."""
        strength = torch.rand(len(objects.boxes), device=objects.boxes.device)
        return self.encoder(objects, image_size, (2 * strength).clamp_max(1))

    def export(self) -> dict[str, nn.Module]:
        """Encoder and head, which step 2 starts from: see `Method.export`.

        Those of the last iteration: a moving average is kept of the detector alone, and the head
        must fit the encoder.
        """
        return {"step1": EncoderAndHead(self)}


class LabelEncStep2(LabelEnc):
    """Step 2: a new detector, drawn towards the maps of the encoder, which is frozen.

        L = L_det(K) + lambda * distance,  lambda = 0 from its stop on

    The head starts from step 1's and the pyramid from the encoder's.

    Raises:
        ValueError: no file of step 1 is named, or one of other settings or classes.
        FileNotFoundError: the file is not there.
    """

    def __init__(
        self, detector: Detector, config: LabelEncStep2Config, schedule: ScheduleConfig
    ) -> None:
        super().__init__(detector, config, schedule)
        if config.step1_weights is None:
            raise ValueError(
                "--method.step1-weights is needed: the step1.safetensors that a run of "
                "labelenc_step1 leaves in its folder"
            )
        load_weights(EncoderAndHead(self), config.step1_weights, "--method.step1-weights")
        detector.pyramid.load_state_dict(self.encoder.pyramid.state_dict())
        self.encoder.requires_grad_(False)

    @torch.no_grad()
    def encode(self, objects: Objects, image_size: tuple[int, int]) -> Maps:
        """Maps of the labels, without gradient."""
        return self.encoder(objects, image_size)

"""LabelEnc (Hao et al., ECCV 2020, arXiv 2007.03282): a label encoder trained first, then a
detector drawn towards its maps.
"""

import torch
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork

from sssd.detectors import Detector, Maps
from sssd.detectors.weights import load_weights
from sssd.fusion import Adapter, ColorMapEncoder, Objects, normalize_map
from sssd.methods.distill import Distilling, squared_error
from sssd.methods.settings import DistillingConfig, LabelEncStep2Config
from sssd.schedules import ScheduleConfig


class LabelMaps(nn.Module):
    """K_e of the labels alone.

    Args:
        encoder: of the labels.
        is_random: in training, multiply each box's v in the colour map by min(1, 2 u), u ~ U(0, 1).
    """

    def __init__(self, encoder: ColorMapEncoder, *, is_random: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.is_random = is_random

    def forward(self, maps: Maps, objects: Objects, image_size: tuple[int, int]) -> Maps:
        """P maps (B, C, H_l, W_l) of the objects; K takes no part."""
        strength = None
        if self.is_random and self.training:
            strength = torch.rand(len(objects.boxes), device=objects.boxes.device)
            strength = (2 * strength).clamp_max(1)
        return self.encoder(objects, image_size, strength)


class LabelEnc(Distilling):
    """What both steps share: the label encoder, the adapter, and the distance between maps.

        distance = mean of (GN(adapter(k)) - stop_gradient(GN(k_label)))^2

    with GN a group norm of one group without affine part, and one mean over all elements of all
    levels. While the coefficient is zero, before its `start` and from its `stop` on, the distance
    is not computed, and the adapter rests: weight decay would shrink it.
    """

    teacher_every: int  # 1: the head is trained on the encoded labels too; 0: it is not

    def __init__(
        self, detector: Detector, config: DistillingConfig, schedule: ScheduleConfig
    ) -> None:
        pyramid = detector.pyramid
        if not isinstance(pyramid, FeaturePyramidNetwork):
            raise ValueError(
                f"--method.name {config.name}: LabelEnc copies torchvision's feature pyramid, but "
                f"{type(detector).__name__} has a {type(pyramid).__name__}"
            )
        taught = bool(self.teacher_every)
        super().__init__(
            detector,
            config,
            schedule,
            LabelMaps(ColorMapEncoder(detector.num_classes, pyramid), is_random=taught),
            Adapter(detector.width),
            teacher_every=self.teacher_every,
            adapter_first=False,
        )

    @property
    def encoder(self) -> ColorMapEncoder:
        """The encoder of the labels."""
        encoder = self.distillation.fusion.encoder
        assert isinstance(encoder, ColorMapEncoder)
        return encoder

    def distances(self, student: Maps, teacher: Maps) -> tuple[Tensor, Tensor]:
        """Mean squared error over all levels, and what each level adds to it (P,)."""
        return squared_error(student, teacher, "image")

    def sides(self, student: Maps, teacher: Maps) -> tuple[Maps, Maps]:
        """Normalised over each map, as the operator does on the way: see `Distilling.sides`."""
        student = [normalize_map(m.float()) for m in student]
        return student, [normalize_map(m.float()) for m in teacher]


class EncoderAndHead(nn.Module):
    """The parts that step 1 hands to step 2, under names that do not depend on the detector."""

    def __init__(self, method: LabelEnc) -> None:
        super().__init__()
        self.encoder = method.encoder
        self.head = method.detector.head


class LabelEncStep1(LabelEnc):
    """Step 1: the detector and the label encoder train one head together.

        L = L_det(K) + L_det(K_label) + lambda * distance,  lambda = 0 before its start

    Each box has a random strength in the colour map: see `LabelMaps`.
    """

    teacher_every = 1

    def export(self) -> dict[str, nn.Module]:
        """The encoder: the teacher, and with the head what step 2 starts from (`Method.export`).

        Those of the last iteration: a moving average is kept of the detector alone, and the head
        must fit the encoder.
        """
        return super().export() | {"step1": EncoderAndHead(self)}


class LabelEncStep2(LabelEnc):
    """Step 2: a new detector, drawn towards the maps of the encoder, which is frozen.

        L = L_det(K) + lambda * distance,  lambda = 0 from its stop on

    The head starts from step 1's and the pyramid from the encoder's.

    Raises:
        ValueError: no file of step 1 is named.
    """

    teacher_every = 0

    def __init__(
        self, detector: Detector, config: LabelEncStep2Config, schedule: ScheduleConfig
    ) -> None:
        super().__init__(detector, config, schedule)
        if config.step1_weights is None:
            raise ValueError(
                "--method.step1-weights is required: the step1.safetensors from the folder of a "
                "labelenc_step1 run"
            )
        self.step1_weights = config.step1_weights
        self.encoder.requires_grad_(False)

    def start(self) -> None:
        """Loads step 1's encoder and head.

        Raises:
            ValueError: the file is of other settings or classes.
            FileNotFoundError: it is not there.
        """
        load_weights(EncoderAndHead(self), self.step1_weights, "--method.step1-weights")
        self.detector.pyramid.load_state_dict(self.encoder.pyramid.state_dict())

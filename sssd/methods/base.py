"""What all methods share: the result of a step, the base class."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from sssd.detectors import Batch, Detector, Losses, Maps, Targets
from sssd.fusion import Objects, pack_objects
from sssd.methods.settings import MethodConfig
from sssd.schedules import ScheduleConfig


class StepResult(NamedTuple):
    """The results of one training step.

    Attributes:
        losses: named scalars ("detection/...", "teacher/...", "distillation"); their sum is what
            is trained.
        metrics: detached scalars, only for logging; those named "gradient..." are filled in by the
            backward pass.
    """

    losses: Losses
    metrics: dict[str, Tensor | float]


class Comparison(NamedTuple):
    """The maps that a method compares, for visualization.

    Attributes:
        batch: the images as the network sees them.
        student: P maps (B, C, H_l, W_l): K as it enters the distance, after adapter and norm.
        teacher: P maps of the same shapes, made from the labels: K_e, likewise.
        cells: P maps (B, H_l, W_l), what each cell has in the distance.
        name: what `cells` hold.
    """

    batch: Batch
    student: Maps
    teacher: Maps
    cells: Maps
    name: str


class Method(nn.Module):
    """A way to train a detector: everything that DDP wraps, without loops or files.

    The base class is plain training, the baseline: only the detector's own losses.

    Args:
        detector: the student.
        config: settings of the method.
        schedule: the learning rate's, which the coefficient follows.

    Attributes:
        detector: the student; all that is left at inference.
        config: the settings, which a resumed run must share.
        watches_gradients: whether the next step measures the gradient norms among its metrics,
            which takes time; otherwise they are zero.
    """

    watches_gradients: bool = True
    config: MethodConfig

    def __init__(self, detector: Detector, config: MethodConfig, schedule: ScheduleConfig) -> None:
        super().__init__()
        self.detector = detector
        self.config = config
        self.schedule = schedule

    @property
    def teacher(self) -> nn.Module | None:
        """What makes the implicit teacher's maps K_e of (maps, objects, image_size), if any."""
        return None

    def forward(self, images: Sequence[Tensor], targets: Targets, iteration: int) -> StepResult:
        """Losses of a batch at an iteration.

        Args:
            images: B images (3, H, W) fp32 in [0, 1].
            targets: for each image boxes (n, 4) xyxy in its pixels and labels (n,).
            iteration: optimizer steps taken before this one.
        """
        batch, _ = self.prepare(images, targets)
        maps = self.detector.maps(batch)
        assignment = self.detector.assign(maps, batch)
        return StepResult(self.detection_losses("detection", maps, batch, assignment), {})

    def start(self) -> None:
        """Takes the weights that a new run begins with from another one; called once, before it.

        Not by the constructor, which also rebuilds what a run has trained.
        """

    def resting(self, iteration: int) -> list[nn.Module]:
        """Parts that no loss trains at an iteration.

        DistributedDataParallel waits for their gradients, which are zero. The loop takes them away
        before the optimizer's step: a gradient of 0 would let weight decay and momentum move the
        part, and AdamW count a step whose missing square makes those after it too large.
        """
        return []

    def compare(self, images: Sequence[Tensor], targets: Targets) -> Comparison | None:
        """The maps that the method compares; None if there are none.

        Args:
            images: B images (3, H, W) fp32 in [0, 1].
            targets: for each image boxes (n, 4) xyxy in its pixels and labels (n,).
        """
        return None

    def export(self) -> dict[str, nn.Module]:
        """Modules other than the detector that a run saves for other runs, by file name."""
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

"""Plain training: the baseline."""

from collections.abc import Sequence

from torch import Tensor

from sssd.detectors import Targets
from sssd.methods.base import Method, StepResult


class Plain(Method):
    """The detector's own losses and nothing else."""

    def forward(self, images: Sequence[Tensor], targets: Targets, iteration: int) -> StepResult:
        """Detection losses of the batch: see `Method.forward`."""
        batch, _ = self.prepare(images, targets)
        maps = self.detector.maps(batch)
        assignment = self.detector.assign(maps, batch)
        return StepResult(self.detection_losses("detection", maps, batch, assignment), {})

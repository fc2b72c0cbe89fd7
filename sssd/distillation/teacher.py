"""Ordinary distillation: a student's maps are pulled towards those of a trained teacher."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sssd.distillation.core import trained_parameters, with_weights, zero_for
from sssd.distillation.stepwise import Coefficient, Stepwise
from sssd.losses import LOSSES, Loss
from sssd.ops.inputs import Maps, as_list, require_function
from sssd.precision import widened, without_autocast

Pyramid = Callable[[Tensor], Sequence[Tensor]]


class TeacherDistillation(Stepwise):
    """A distance between the maps of two detectors, one of which is frozen.

        loss = lambda * loss(projection(K), K_teacher)

    A level's projection is a 1x1 convolution if student and teacher differ in width; before the
    coefficient's start it alone is trained, and the loss if it has weights. The teacher is put in
    eval mode and gets no gradient; it is not a submodule: the state dict, copies and pickles
    of this module do not have it, and so cannot train.

    Args:
        widths: channels of each of the student's P maps.
        teacher: the trained detector, which is frozen.
        teacher_widths: channels of each of the teacher's P maps.
        pyramid: from images as the network sees them (B, 3, H, W) to the teacher's P maps.
        loss: a name in `sssd.losses.LOSSES`, or a module or function of the maps of both.
        coefficient: lambda, in addition to the loss's own weight: see `Stepwise`.
        milestones: see `Stepwise`.

    Raises:
        ValueError: an unknown loss, or pyramids of different length.

    Example:
        >>> student, teacher = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 8, 1)
        >>> part = TeacherDistillation([4], teacher, [8], lambda x: [teacher(x)], "cwd")
        >>> images = torch.randn(2, 3, 8, 8)
        >>> sorted(part([student(images)], images))
        ['loss_distillation']
    """

    def __init__(
        self,
        widths: Sequence[int],
        teacher: nn.Module,
        teacher_widths: Sequence[int],
        pyramid: Pyramid,
        loss: str | Loss = "cwd",
        *,
        coefficient: Coefficient = 1.0,
        milestones: Sequence[int] = (),
    ) -> None:
        super().__init__(coefficient, milestones)
        if len(widths) != len(teacher_widths):
            raise ValueError(
                f"model has {len(widths)} maps and teacher {len(teacher_widths)}: their pyramids "
                "must have the same levels"
            )
        if isinstance(loss, str) and loss not in LOSSES:
            raise ValueError(f"loss is {loss!r}: expected one of {', '.join(LOSSES)}, or a module")
        self.loss: Loss = LOSSES[loss]() if isinstance(loss, str) else loss
        require_function("loss", self.loss)
        self.projections = nn.ModuleList(
            nn.Identity() if own == other else nn.Conv2d(own, other, 1)
            for own, other in zip(widths, teacher_widths, strict=True)
        )
        self._taught_by: tuple[nn.Module, Pyramid] | None = teacher, pyramid  # no submodule
        teacher.requires_grad_(False)
        if self.coefficient.is_off:  # no gradient will come: DDP must not wait for one
            self.requires_grad_(False)

    @torch._disable_dynamo  # as SelfDistillation
    def forward(self, maps: Maps, images: Tensor, *, step: int | None = None) -> dict[str, Tensor]:
        """The loss of one training step, to be added to the detector's own.

        Args:
            maps: P maps (B, C_l, H_l, W_l) of the student, finest first.
            images: (B, 3, H, W), the batch as the network sees it.
            step: see `SelfDistillation.forward`.

        Returns:
            "loss_distillation"; nothing if lambda is always 0.

        Raises:
            RuntimeError: in a copy or pickle, which has no teacher.
        """
        if self.coefficient.is_off:
            return {}
        step = self._count(step)
        maps = as_list("maps", maps)
        if not self._acts(step):
            self.metrics = {"lambda": 0.0}
            return {"loss_distillation": zero_for(self.projections, self.loss, like=maps[0])}
        if self._taught_by is None:
            raise RuntimeError(
                "a copied or pickled model has no teacher: detach(model), then "
                "attach(model, teacher=...) again"
            )
        teacher, pyramid = self._taught_by
        if teacher.training:
            teacher.eval()
        if next(teacher.parameters()).device != images.device:
            teacher.to(images.device)
        with torch.no_grad():
            targets = list(pyramid(images))
        started = step >= self.coefficient.start
        student = maps if started else [m.detach() for m in maps]
        pairs = zip(self.projections, student, strict=True)
        projected = widened([project(m) for project, m in pairs])
        with without_autocast(projected):
            distance = self.loss(projected, widened(targets))
        self.metrics = {"lambda": self.acting_lambda_at(step), "distance": distance.detach()}
        return {"loss_distillation": self.lambda_at(step) * distance}

    def resting(self, step: int) -> list[nn.Module]:
        """Projections and loss while nothing trains them: see `Stepwise`."""
        return [] if self._acts(step) else with_weights([self.projections, self.loss])

    def _acts(self, step: int) -> bool:
        """Whether a step trains anything: before the start only projections and loss are."""
        started = step >= self.coefficient.start
        trains = started or any(trained_parameters(x) for x in (self.projections, self.loss))
        return trains and self.lambda_at(step) > 0

    def __getstate__(self) -> dict[str, Any]:
        """Without the teacher."""
        return {**super().__getstate__(), "_taught_by": None}

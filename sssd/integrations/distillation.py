"""Label-guided self-distillation for detectors that are trained by another framework."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sssd.fusion import Adapter, HeatmapFusion, pack_objects
from sssd.ops import js_distance
from sssd.ops.inputs import Maps, as_list

HeadLosses = Callable[[list[Tensor]], Mapping[str, Tensor]]


class SelfDistillation(nn.Module):
    """Losses that draw a detector's maps towards maps that know the labels.

        K_e = fusion(K, labels)
        losses = head_losses(K_e) + coefficient * distance(adapter(K), stop_gradient(K_e))

    `head_losses` is the framework's own head on K_e: it is what makes K_e worth following. The
    module has parameters: make it a part of the model before the optimizer and DDP are made.

    Args:
        num_classes: labels are 0 .. num_classes - 1.
        width: channels of every map.
        coefficient: lambda, or lambda as a function of the training step (for the stepwise rule).
        start: step from which the detector takes the gradient; before it only the adapter learns.
        fusion: component that makes K_e; `HeatmapFusion(num_classes, width)` by default, the
            cheap one of our recipes; LGD's is `RelationFusion`.
        adapter: module on the student's maps; `Adapter(width, separable=True)` by default; LGD's
            is `Adapter(width)`, `nn.Identity()` leaves it out.
        distance: of two lists of maps; the Jensen-Shannon distance by default.

    Example:
        >>> distillation = SelfDistillation(num_classes=3, width=64)
        >>> maps = [torch.randn(1, 64, 8, 8), torch.randn(1, 64, 4, 4)]
        >>> boxes = torch.tensor([[4.0, 4.0, 30.0, 30.0]])
        >>> targets = [{"boxes": boxes, "labels": torch.tensor([2])}]
        >>> losses = distillation(maps, targets, (64, 64), lambda k: {"loss_cls": k[0].mean()})
        >>> sorted(losses)
        ['loss_distillation', 'teacher_loss_cls']

    Source: Deng et al., ICIP 2023 (arXiv 2303.05015); Zhang et al., AAAI 2022 (arXiv 2109.11496).
    """

    attachment: Any = None  # the hooks of the integration that made this part

    def __init__(
        self,
        num_classes: int,
        width: int,
        *,
        coefficient: float | Callable[[int], float] = 1.0,
        start: int = 0,
        fusion: nn.Module | None = None,
        adapter: nn.Module | None = None,
        distance: Callable[[list[Tensor], list[Tensor]], Tensor] = js_distance,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.coefficient = coefficient
        self.start = start
        self.step = 0  # training steps so far; saved with the weights
        self.fusion = HeatmapFusion(num_classes, width) if fusion is None else fusion
        self.adapter = Adapter(width, separable=True) if adapter is None else adapter
        self.distance = distance

    def forward(
        self,
        maps: Maps,
        targets: Sequence[dict[str, Tensor]],
        image_size: tuple[int, int],
        head_losses: HeadLosses,
    ) -> dict[str, Tensor]:
        """Losses of one training step, to be added to the detector's own.

        Args:
            maps: P maps (B, width, H_l, W_l), finest first; a list, or a dict of a backbone.
            targets: for each image boxes (n, 4) xyxy in pixels of the padded batch and labels (n,),
                on the device of the maps or the host.
            image_size: (H, W) of the padded batch.
            head_losses: the detector's losses of other maps of these shapes, by name.

        Returns:
            "teacher_NAME" for every loss NAME of the head, and "loss_distillation".

        Raises:
            ValueError: another number of targets than images, or, on the host, a label that is no
                class.
        """
        maps = as_list("maps", maps)
        if len(targets) != len(maps[0]):
            raise ValueError(f"targets: {len(targets)} for a batch of {len(maps[0])} images")
        objects = pack_objects(targets, maps[0].device, self.num_classes)
        enhanced = self.fusion(maps, objects, image_size)  # K_e
        losses = {f"teacher_{name}": loss for name, loss in head_losses(enhanced).items()}
        coefficient = (
            self.coefficient(self.step) if callable(self.coefficient) else self.coefficient
        )
        started = self.step >= self.start
        student = [self.adapter(m if started else m.detach()) for m in maps]
        distance = self.distance(student, [m.detach() for m in enhanced])
        losses["loss_distillation"] = coefficient * distance
        self.step += 1
        return losses

    def get_extra_state(self) -> Tensor:
        """The step, so that a resumed run goes on with its schedule."""
        return torch.tensor(self.step)

    def set_extra_state(self, state: Any) -> None:
        """Takes the step back from a state dict."""
        self.step = int(state)

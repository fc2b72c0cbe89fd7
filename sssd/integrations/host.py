"""What `attach` must know of a detector, which each framework's module tells."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from sssd.distillation import HeadLosses
from sssd.integrations.pixels import Pixels
from sssd.integrations.tap import Tap


class Step(NamedTuple):
    """A training step of another framework's detector, read while it ran.

    Attributes:
        images: (B, 3, H, W), the padded batch that the network saw.
        maps: P maps (B, C_l, H_l, W_l), finest first: K.
        targets: for each image boxes (n, 4) xyxy in pixels of the batch and labels (n,).
        head_losses: the detector's losses of other maps of these shapes, by name.
        besides: parts of the model that those losses do not run, such as its backbone.
        scale: what our losses are multiplied by, as the framework does with its own.
    """

    images: Tensor
    maps: list[Tensor]
    targets: list[dict[str, Tensor]]
    head_losses: HeadLosses
    besides: tuple[nn.Module, ...] = ()
    scale: float = 1.0


class Host(ABC):
    """A detector of another framework, which stays that framework's own.

    Args:
        model: the detector.

    Attributes:
        num_classes: labels are 0 .. num_classes - 1.
        widths: channels of each map of K.
        pixels: how the network is given them.
        heads: whose outputs the losses on K_e are computed from, which under autocast are taken in
            fp32. Without any it is as the framework does it for K.
    """

    num_classes: int
    widths: list[int]
    pixels: Pixels
    heads: Sequence[nn.Module] = ()

    def __init__(self, model: Any) -> None:
        self.model = model

    def attached(self) -> None:  # noqa: B027 - most have nothing to do
        """Is called when the part has become the model's."""

    def detached(self) -> None:  # noqa: B027
        """Is called when the part is about to leave."""

    @abstractmethod
    def taps(self) -> list[Tap]:
        """Taps on the modules whose in- or output `step` needs; each runs once a training step."""

    def is_training_step(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call of the model in training mode computes losses."""
        return True

    @abstractmethod
    def step(
        self, taken: list[Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> Step:
        """A training step.

        Args:
            taken: what the taps caught, in their order.
            args: of the call of the model.
            kwargs: of the call of the model.
            output: what the model returned.
        """

    @abstractmethod
    def add(self, output: Any, losses: dict[str, Tensor]) -> Any:
        """The model's output with more losses in it, in the form that its trainer expects."""

    @abstractmethod
    def pyramid(self, images: Tensor) -> list[Tensor]:
        """The maps of a batch, given by `pixels`: of a teacher, which a student is drawn to."""

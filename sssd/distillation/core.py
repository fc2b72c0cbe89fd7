"""Label-guided self-distillation: K and labels to K_e, what is drawn to it, and what takes which
gradient.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from sssd.distillation.projection import Projection
from sssd.distillation.running_state import running_state_kept
from sssd.distillation.stepwise import Coefficient, Stepwise
from sssd.fusion import Adapter, Objects, PaintedFusion, pack_objects
from sssd.ops import js_distance
from sssd.ops.inputs import Maps, as_list, require_function
from sssd.precision import widened, without_autocast

HeadLosses = Callable[[list[Tensor]], Mapping[str, Tensor]]
Distance = Callable[[list[Tensor], list[Tensor]], Tensor | tuple[Tensor, Tensor]]
Watch = Callable[[str, list[Tensor]], list[Tensor]]


class Distilled(NamedTuple):
    """The results of a step of self-distillation.

    Attributes:
        teacher: the head's losses on K_e, by the head's names; none in a step without them.
        distillation: lambda times the distance.
        metrics: detached scalars: "lambda" as it acts on the student, and "distance/level..." if
            there is a distance that returns its levels.
    """

    teacher: dict[str, Tensor]
    distillation: Tensor
    metrics: dict[str, Tensor | float]


class SelfDistillation(Stepwise):
    """Losses that pull a detector's maps towards maps that know the labels.

        K_e = fusion(K, labels)
        losses = head_losses(K_e) + lambda * distance(adapter(K), stop_gradient(K_e))

    `head_losses` runs the detector's own head on K_e, which makes K_e a useful target. It trains
    the head, the fusion and, through the fusion's view of K, the detector; the distance trains the
    adapter and, from the coefficient's start on, the detector. After its stop nothing is computed.
    Every step gives the same parameters a gradient, even if it is zero, because
    DistributedDataParallel waits for it: see `resting`. The module has parameters: make it a
    submodule of the model before you make the optimizer and DistributedDataParallel. In a step
    under torch.compile it is not compiled, the rest of the step is.

    Args:
        num_classes: labels are 0 .. num_classes - 1.
        width: channels of the maps, of all or of each. Where levels differ, fusion, adapter and
            distance see them after 1x1 convolutions to 128 channels.
        coefficient: lambda, a number or a schedule: a `CoefficientConfig`, or its fields as a dict,
            such as {"value": 4.7, "steps": {120_000: 9.4}}. A lambda of 0 is plain training: no
            losses, and parameters that require no gradient.
        milestones: steps at which the learning rate falls, and lambda is multiplied by the
            coefficient's `step_factor`.
        fusion: module that makes K_e; `PaintedFusion(num_classes, width)` by default, the cheap one
            of our recipes; LGD's is `RelationFusion`.
        adapter: module on the student's maps; `Adapter(width, separable=True)` by default; LGD's is
            `Adapter(width)`; `nn.Identity()` is no adapter.
        distance: of two lists of maps; the Jensen-Shannon distance by default. It returns a scalar,
            or a scalar and what each level contributes to it (P,).
        teacher_every: run the head on K_e every so many steps; 0: never.
        adapter_first: before the coefficient's start the distance trains only the adapter; if
            False, the distance is left out while lambda does not act on the student, and the
            adapter is not trained.

    Attributes:
        step: training steps so far: see `Stepwise`, and its `follow` for a trainer's own count.
        metrics: of the last `forward`: see `Distilled`.

    Example:
        >>> distillation = SelfDistillation(num_classes=3, width=64)
        >>> maps = [torch.randn(1, 64, 8, 8), torch.randn(1, 64, 4, 4)]
        >>> boxes = torch.tensor([[4.0, 4.0, 30.0, 30.0]])
        >>> targets = [{"boxes": boxes, "labels": torch.tensor([2])}]
        >>> head = nn.Conv2d(64, 3, 1)
        >>> losses = distillation(
        ...     maps, targets, (64, 64), lambda k: {"loss_cls": head(k[0]).mean()}, head
        ... )
        >>> sorted(losses)
        ['loss_distillation', 'teacher_loss_cls']

    Source: Deng et al., ICIP 2023 (arXiv 2303.05015); Zhang et al., AAAI 2022 (arXiv 2109.11496).
    """

    def __init__(
        self,
        num_classes: int,
        width: int | Sequence[int],
        *,
        coefficient: Coefficient = 1.0,
        milestones: Sequence[int] = (),
        fusion: nn.Module | None = None,
        adapter: nn.Module | None = None,
        distance: Distance = js_distance,
        teacher_every: int = 1,
        adapter_first: bool = True,
    ) -> None:
        super().__init__(coefficient, milestones)
        for name, number, least in [
            ("num_classes", num_classes, 1),
            ("teacher_every", teacher_every, 0),
        ]:
            if number != int(number) or number < least:
                raise ValueError(
                    f"{name} is {number}; it must be a whole number of {least} or more"
                )
        if teacher_every == 0 and fusion is None:
            raise ValueError(
                "teacher_every is 0, so nothing would train the fusion that makes K_e: pass a "
                "fusion= that is trained, or 1 or more"
            )
        self.num_classes = num_classes
        self.projection = Projection(width)
        width = self.projection.width
        self.fusion = PaintedFusion(num_classes, width) if fusion is None else fusion
        self.adapter = Adapter(width, separable=True) if adapter is None else adapter
        require_function("distance", distance)
        self.distance = distance
        self.teacher_every = teacher_every
        self.adapter_first = adapter_first
        if self.coefficient.is_off:  # no gradient will come: DDP must not wait for one
            self.requires_grad_(False)

    @torch._disable_dynamo  # else each step's lambda, a constant, would be compiled anew
    def forward(
        self,
        maps: Maps,
        targets: Sequence[dict[str, Tensor]],
        image_size: tuple[int, int],
        head_losses: HeadLosses,
        model: nn.Module,
        *besides: nn.Module,
        step: int | None = None,
    ) -> dict[str, Tensor]:
        """Losses of one training step, to be added to the detector's own.

        Args:
            maps: P maps (B, C_l, H_l, W_l), finest first; a list, or a dict of a backbone.
            targets: for each image boxes (n, 4) xyxy in pixels of the padded batch and labels (n,),
                on the device of the maps or the host.
            image_size: (H, W) of the padded batch.
            head_losses: the detector's losses of other maps of these shapes, by name.
            model: the detector, or its head, whose running state the losses on K_e must not change:
                see `running_state_kept`.
            besides: parts of the model that those losses do not run, such as its backbone.
            step: training steps before this one; by default the count passed to `follow`, or else
                the number of calls so far.

        Returns:
            "teacher_NAME" for every loss NAME of the head, and "loss_distillation"; nothing if
            lambda is always 0.

        Raises:
            ValueError: the numbers of targets and images, or of maps and widths, differ or are 0,
                or, on the host, a label is not a class or a box is not finite.
            RuntimeError: the head writes into the maps that it is given.
        """
        maps = as_list("maps", maps)
        if not maps:
            raise ValueError("maps is empty: pass at least one level")
        if not targets or len(targets) != len(maps[0]):
            raise ValueError(f"targets: {len(targets)} for a batch of {len(maps[0])} images")
        if self.coefficient.is_off:
            return {}
        objects = pack_objects(targets, maps[0].device, self.num_classes)
        distilled = self.distil(
            maps, objects, image_size, head_losses, model, *besides, step=self._count(step)
        )
        self.metrics = distilled.metrics
        losses = {f"teacher_{name}": loss for name, loss in distilled.teacher.items()}
        return losses | {"loss_distillation": distilled.distillation}

    def distil(
        self,
        maps: list[Tensor],
        objects: Objects,
        image_size: tuple[int, int],
        head_losses: HeadLosses,
        model: nn.Module,
        *besides: nn.Module,
        step: int,
        watch: Watch = lambda kind, maps: maps,
    ) -> Distilled:
        """Losses of a step whose number is given: see `forward`, which counts and packs for it.

        Args:
            maps: P maps (B, C_l, H_l, W_l), finest first.
            objects: the packed targets.
            image_size: (H, W) of the padded batch.
            head_losses: see `forward`.
            model: see `forward`.
            besides: see `forward`.
            step: training steps before this one.
            watch: given "teacher" or "distillation" and the maps, returns aliases of them that the
                losses of this kind are computed from.
        """
        is_taught, is_drawn = self.is_taught(step), self.is_drawn(step)
        if not (is_taught or is_drawn):
            parts = self.projection, self.fusion, self.adapter, self.distance
            return Distilled({}, zero_for(*parts, like=maps[0]), {"lambda": 0.0})
        with torch.set_grad_enabled(is_taught and torch.is_grad_enabled()):
            seen = watch("teacher", maps) if is_taught else [m.detach() for m in maps]
            narrow = self.projection.narrow(seen)
            enhanced = self.fusion(narrow, objects, image_size)  # K_e
        teacher: dict[str, Tensor] = {}
        if is_taught:
            with running_state_kept(model, *besides), unwritten(enhanced):
                teacher = dict(head_losses(list(self.projection.widen(enhanced))))
        metrics: dict[str, Tensor | float] = {"lambda": self.acting_lambda_at(step)}
        if not is_drawn:
            zero = zero_for(self.adapter, self.distance, like=maps[0])
            return Distilled(teacher, zero, metrics)

        started = step >= self.coefficient.start
        student = watch("distillation", maps) if started else [m.detach() for m in maps]
        adapted = widened([self.adapter(m) for m in self.projection.narrow(student)])
        with without_autocast(adapted):
            distance = self.distance(adapted, widened([m.detach() for m in enhanced]))
        total, levels = distance if isinstance(distance, tuple) else (distance, None)
        loss = self.lambda_at(step) * total
        if not is_taught:
            loss = loss + zero_for(self.projection, self.fusion, like=maps[0])
        if levels is not None:
            metrics |= {f"distance/level{i}": d for i, d in enumerate(levels.detach().unbind())}
        return Distilled(teacher, loss, metrics)

    def is_taught(self, step: int) -> bool:
        """Whether the head sees K_e.

        Counted from 1, as the iterations that are logged are: every n-th is taught and shown.
        """
        if self.coefficient.has_stopped(step) or not self.teacher_every:
            return False
        return (step + 1) % self.teacher_every == 0

    def is_drawn(self, step: int) -> bool:
        """Whether there is a distance: not where it would train nothing."""
        before_start = self.adapter_first and any(
            trained_parameters(part) for part in (self.adapter, self.distance, self.projection)
        )
        weight = self.lambda_at if before_start else self.acting_lambda_at
        return weight(step) > 0

    def resting(self, step: int) -> list[nn.Module]:
        """Projection, fusion, adapter and distance while nothing trains them: see `Stepwise`."""
        untaught = not self.is_taught(step)
        undrawn = not self.is_drawn(step)
        rests = (
            (self.fusion, untaught and self.teacher_every > 0),  # else others train it
            (self.adapter, undrawn),
            (self.distance, undrawn),
            (self.projection.reduce, untaught and undrawn),
            (self.projection.expand, untaught),
        )
        return with_weights(part for part, rested in rests if rested)


@contextmanager
def unwritten(enhanced: Sequence[Tensor]) -> Iterator[None]:
    """Refuses a head that writes into K_e, which the distance needs once more.

    Raises:
        RuntimeError: names the level.
    """
    before = [m._version for m in enhanced]
    yield
    for level, (m, version) in enumerate(zip(enhanced, before, strict=True)):
        if m._version != version:
            raise RuntimeError(
                f"head_losses wrote into level {level} of K_e, which the distance compares "
                "afterwards: its head must not begin with an operation in place, such as "
                "ReLU(inplace=True)"
            )


class _Zero(torch.autograd.Function):
    """Zero as a function of parameters, with gradients of zero whatever comes down."""

    @staticmethod
    def forward(ctx: Any, *parameters: Tensor) -> Tensor:
        ctx.parameters = parameters  # for their shapes: they may be written to before the backward
        return parameters[0].new_zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.zeros_like(parameter) for parameter in ctx.parameters)


def zero_for(*parts: object, like: Tensor) -> Tensor:
    """A zero that gives every trained parameter of some modules a gradient of zero.

    What is left out of a step must still be in its graph: DistributedDataParallel waits for a
    gradient of every parameter. `SelfDistillation.resting` names what the optimizer then leaves
    alone.

    Args:
        parts: modules; others, such as functions, have no parameters.
        like: a tensor of the losses' device.

    Returns:
        A float32 scalar.
    """
    trained = [p for part in parts for p in trained_parameters(part)]
    if not trained:
        return like.new_zeros((), dtype=torch.float32)
    return cast(Tensor, _Zero.apply(*trained))


def with_weights(parts: Iterable[object]) -> list[nn.Module]:
    """Those that have parameters, which functions have not."""
    return [p for p in parts if isinstance(p, nn.Module) and any(True for _ in p.parameters())]


def trained_parameters(part: object) -> list[nn.Parameter]:
    """The parameters of a module that require a gradient; none of a function."""
    if not isinstance(part, nn.Module):
        return []
    return [p for p in part.parameters() if p.requires_grad]

"""Parts that rest are left alone by whatever optimizer trains them."""

import functools
import warnings
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from sssd.distillation import Stepwise

_WATCHED: "WeakSet[Resting]" = WeakSet()
PATIENCE = 10  # steps that may train the model alone: a part's own optimizer may step less often


class Resting:
    """Takes the zero gradients of resting parts away before an optimizer's step.

    A part rests that no training step since the last one of its optimizer has trained: zeros are
    there for DistributedDataParallel alone (see `Stepwise.resting`). It is torch's hook on every
    optimizer of the process, as each framework makes its own; those of other models are left as
    they are. After a step that a GradScaler skips, a part may take zeros once.

    Args:
        model: that is trained. Weights that it shares with a part never rest.
        part: its distillation.
    """

    _steps_without: int | None = 0  # that trained the model alone; None: no more to be said
    _model_has_stepped = _has_stepped = False  # since the last training step: any; one of the part

    def __init__(self, model: nn.Module, part: Stepwise) -> None:
        self.model = model
        self.part = part
        self._parts: set[nn.Module] | None = None
        self._watch()

    def _watch(self) -> None:
        _hook_optimizers()
        _WATCHED.add(self)

    def after_training_step(self, step: int) -> None:
        """Notes what a step has left alone, one of the parts of an accumulated batch."""
        if self._has_stepped:
            self._parts, self._has_stepped = None, False
        self._count()
        parts = set(self.part.resting(step))
        self._parts = parts if self._parts is None else self._parts & parts

    def before(self, optimizer: torch.optim.Optimizer) -> None:
        """Is called when an optimizer has its gradients."""
        own = {id(p) for p in self.part.parameters()}
        if not own & _trained_by(optimizer):
            return
        resting = [p for part in self._parts or () for p in part.parameters()]
        if resting:
            kept = {id(p) for p in _parameters_beside(self.model, self.part)}
            for parameter in resting:
                if id(parameter) not in kept:
                    parameter.grad = None
        self._has_stepped = True  # one of many perhaps: each parameter may have its own optimizer

    def look(self, optimizer: torch.optim.Optimizer) -> None:
        """Is called when an optimizer steps, to see whether any trains the part."""
        if self._steps_without is None:
            return
        trained, own = _trained_by(optimizer), [*self.part.parameters()]
        if any(id(p) in trained for p in own) or not any(p.requires_grad for p in own):
            self._steps_without = None
        elif not self._model_has_stepped:
            beside = _parameters_beside(self.model, self.part)
            self._model_has_stepped = any(id(p) in trained for p in beside)

    def _count(self) -> None:
        """Warns once where steps train the model and none its part."""
        if self._steps_without is None or not self._model_has_stepped:
            return
        self._steps_without, self._model_has_stepped = self._steps_without + 1, False
        if self._steps_without >= PATIENCE:
            self._steps_without = None
            warnings.warn(
                f"sssd: no optimizer has trained model.distillation in {PATIENCE} steps, so it "
                "stays as it began: make the optimizer after attach, or add a group of its "
                "parameters",
                stacklevel=2,
            )

    def remove(self) -> None:
        """Ends it."""
        _WATCHED.discard(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A model out of a pickle is watched, too."""
        vars(self).update(state)
        self._watch()


def _trained_by(optimizer: torch.optim.Optimizer) -> set[int]:
    """Ids of its parameters."""
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def _parameters_beside(model: nn.Module, part: nn.Module) -> list[nn.Parameter]:
    """Those of a model that it has outside a part."""
    others = [child for child in model.children() if child is not part]
    beside = [p for child in others for p in child.parameters()]
    return [*model.parameters(recurse=False), *beside]


@functools.cache
def _hook_optimizers() -> None:
    register_optimizer_step_pre_hook(_before_step)


@torch._disable_dynamo
def _before_step(
    optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    def rest() -> None:
        for one in list(_WATCHED):
            one.before(optimizer)

    for one in list(_WATCHED):
        one.look(optimizer)
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if not callable(closure) or not _WATCHED:
        rest()
        return None

    def closed() -> Any:
        loss = closure()  # makes the gradients
        rest()
        return loss

    if "closure" in kwargs:
        return args, {**kwargs, "closure": closed}
    return (args[0], closed, *args[2:]), kwargs

"""Parts that rest are left alone by whatever optimizer trains them."""

import weakref
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from sssd.distillation import Stepwise


class Resting:
    """Takes the zero gradients of resting parts away before an optimizer's step.

    A part rests that no training step since the last one of its optimizer has trained: zeros are
    there for DistributedDataParallel alone (see `Stepwise.resting`). It is torch's hook on every
    optimizer of the process, as each framework makes its own; those of other models are left as
    they are.

    Args:
        part: the distillation.
    """

    def __init__(self, part: Stepwise) -> None:
        self.part = part
        self._parts: set[nn.Module] | None = None
        own = weakref.ref(self)

        @torch._disable_dynamo
        def before(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            if (resting := own()) is not None:
                resting.before(optimizer)

        self._handle = register_optimizer_step_pre_hook(before)
        weakref.finalize(self, self._handle.remove)

    def after_training_step(self, step: int) -> None:
        """Notes what a step has left alone, one of the parts of an accumulated batch."""
        parts = set(self.part.resting(step))
        self._parts = parts if self._parts is None else self._parts & parts

    def before(self, optimizer: torch.optim.Optimizer) -> None:
        """Is called before any optimizer's step."""
        own = {id(p) for p in self.part.parameters()}
        if any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            for part in self._parts or ():
                part.zero_grad(set_to_none=True)
            self._parts = None

    def remove(self) -> None:
        """Ends it."""
        self._handle.remove()

    def __getstate__(self) -> Stepwise:
        """The hook is this process's."""
        return self.part

    def __setstate__(self, part: Stepwise) -> None:
        """A model out of a pickle has a hook of its own."""
        Resting.__init__(self, part)

"""Running state of a module, kept unchanged by a pass that must leave no trace."""

import copy
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))  # parameters, buffers, hooks, ...: no plain state


@contextmanager
def running_state_kept(model: nn.Module, *besides: nn.Module) -> Iterator[None]:
    """Lets a model run in training mode without any change to its running state.

    The pass on K_e trains the head's weights, but the deployed state must have seen only K: batch
    norm statistics, their counters, moving averages of a loss's normalizer. During the pass, every
    buffer and every tensor, list, dict or number that is a plain attribute of a module is replaced
    by a copy; afterwards the original objects, which were never written to, are put back, so that a
    graph or a wrapper (DistributedDataParallel) that refers to them notices nothing. Gradients flow
    as usual.

    Parameters are not copied, nor is the state of objects that are not modules. Activation
    checkpointing runs a part again in the backward pass, which is not covered.

    Args:
        model: whose state is kept; the cost grows with the number of modules and buffers.
        besides: parts of it to skip, such as a backbone that does not run.

    Example:
        >>> import torch
        >>> norm = nn.BatchNorm1d(2)
        >>> with running_state_kept(norm):
        ...     norm(torch.randn(8, 2) + 5).sum().backward()
        >>> norm.running_mean.tolist(), norm.num_batches_tracked.item()
        ([0.0, 0.0], 0)
    """
    left = {module for part in besides for module in part.modules()}
    modules = [module for module in model.modules() if module not in left]
    before = [(module, dict(module._buffers), _plain_attributes(module)) for module in modules]
    copies: dict[int, Any] = {}  # by the original's id: what is shared stays shared
    try:
        for module, buffers, attributes in before:
            module._buffers.update({name: _copy(x, copies) for name, x in buffers.items()})
            vars(module).update({name: _copy(x, copies) for name, x in attributes.items()})
        yield
    finally:
        for module, buffers, attributes in before:
            module._buffers.clear()
            module._buffers.update(buffers)
            for name in _plain_attributes(module).keys() - attributes.keys():
                del vars(module)[name]
            vars(module).update(attributes)


def _plain_attributes(module: nn.Module) -> dict[str, Any]:
    return {name: x for name, x in vars(module).items() if name not in _OF_EVERY_MODULE}


def _copy(value: Any, copies: dict[int, Any]) -> Any:
    """A tensor or container that may be written to; anything else is itself."""
    if id(value) in copies:
        return copies[id(value)]
    made = value
    if isinstance(value, Tensor):
        if not value.requires_grad and not isinstance(value, nn.Parameter):
            made = value.clone()
    elif isinstance(value, (list, dict, deque)):
        made = copies[id(value)] = copy.copy(value)
        for key, x in list(value.items() if isinstance(value, dict) else enumerate(value)):
            if (own := _copy(x, copies)) is not x:
                made[key] = own
    elif isinstance(value, set):
        made = copy.copy(value)
    elif isinstance(value, tuple):
        each = [_copy(x, copies) for x in value]
        if any(own is not x for own, x in zip(each, value, strict=True)):
            made = type(value)(*each) if hasattr(value, "_fields") else type(value)(each)
    copies[id(value)] = made
    return made

"""What stays fp32 under autocast, whose 8 or 11 bits are too few for it: anchors, boxes, losses."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

HALVES = (torch.float16, torch.bfloat16)


def each_tensor(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A tensor changed, or all in dicts, lists and tuples."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        changed = ((name, each_tensor(change, x)) for name, x in value.items())
        return type(value)(changed)  # type: ignore[call-arg]
    if isinstance(value, list | tuple):
        each = [each_tensor(change, x) for x in value]
        return type(value)(*each) if hasattr(value, "_fields") else type(value)(each)
    return value


def widened(value: Any) -> Any:
    """A tensor, or all in dicts, lists and tuples, in fp32 where they are bf16 or fp16."""
    return each_tensor(lambda x: x.float() if x.dtype in HALVES else x, value)


def widen_output(module: nn.Module, args: Any, output: Any) -> Any:
    """Is a forward hook: box decoding and losses need more than the 8 bits of bf16."""
    return widened(output)


def widen_maps(module: nn.Module, args: tuple[Any, list[Tensor]]) -> tuple[Any, list[Tensor]]:
    """Is a forward pre-hook of torchvision's anchor generators, which take shapes and dtype.

    Anchors in bf16 would be up to 8 px off.
    """
    images, maps = args
    return images, [m.new_empty((), dtype=torch.float32).expand(m.shape) for m in maps]


@contextmanager
def outputs_widened(modules: Iterable[nn.Module]) -> Iterator[None]:
    """What some modules give meanwhile is fp32."""
    handles = [module.register_forward_hook(widen_output) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def without_autocast(maps: list[Tensor]) -> AbstractContextManager[object]:
    """Computes with maps as they are given."""
    device = maps[0].device.type
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)

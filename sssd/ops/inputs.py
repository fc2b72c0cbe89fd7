"""Maps and numbers as users hold them, or an error that says how to pass them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch.autograd.forward_ad as forward_ad
from torch import Tensor

Maps = Mapping[str, Tensor] | Iterable[Tensor] | Tensor


def as_list(name: str, maps: Maps, dims: int | None = 4) -> list[Tensor]:
    """The maps of all levels in their order; a single tensor is one level.

    Args:
        name: of the argument, for messages.
        maps: a list, a tuple, an iterator, a dict such as torchvision's backbones return, a tensor.
        dims: of each of them, (B, C, H, W); None takes any.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(maps, Tensor):
        maps = [maps]
    elif isinstance(maps, Mapping):
        maps = maps.values()
    elif isinstance(maps, (str, set, frozenset)) or not isinstance(maps, Iterable):
        raise TypeError(
            f"{name} is a {type(maps).__name__}: pass a list of tensors, one a level, finest first"
        )
    levels = list(maps)
    for level, x in enumerate(levels):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}[{level}] is a {type(x).__name__}: expected a tensor")
        if dims is not None and x.dim() != dims:
            raise TypeError(
                f"{name}[{level}] has shape {tuple(x.shape)}: expected (B, C, H, W); one image's "
                "map is x[None], tokens (B, H W, C) are x.mT.unflatten(2, (H, W))"
            )
    return levels


def as_pair(
    student: Maps,
    teacher: Maps,
    names: tuple[str, str] = ("student", "teacher"),
    dims: int | None = 4,
) -> tuple[list[Tensor], list[Tensor]]:
    """Both sides as lists of one length; two dicts are matched by their keys.

    Raises:
        TypeError: for what `as_list` refuses, a level that one side lacks, or unequal lengths.
    """
    if isinstance(student, Mapping) and isinstance(teacher, Mapping):
        for name, side, other in ((names[1], teacher, student), (names[0], student, teacher)):
            missing = [key for key in other if key not in side]
            if missing:
                raise TypeError(f"{name} has no {missing}, only {list(side)}: pass the same levels")
        teacher = [teacher[key] for key in student]
    a, b = as_list(names[0], student), as_list(names[1], teacher, dims)
    if len(a) != len(b):
        raise TypeError(
            f"{names[0]} has {len(a)} levels but {names[1]} has {len(b)}: pass one a level"
        )
    return a, b


def as_number(name: str, value: float | Tensor) -> float:
    """A setting as a number.

    Raises:
        TypeError: for a tensor that wants a gradient, which it would not get, or no number at all.
    """
    if isinstance(value, Tensor):
        if value.requires_grad or forward_ad.unpack_dual(value).tangent is not None:
            raise TypeError(
                f"{name} is a tensor that wants a gradient, and settings get none: pass "
                f"{name}=float({name})"
                + "; to learn a temperature, divide the maps by it and pass temperature=1.0"
                * (name == "temperature")
            )
        if value.numel() == 1:
            return value.item()
    elif isinstance(value, (int, float)):
        return value
    raise TypeError(f"{name} is a {type(value).__name__}: expected a number")

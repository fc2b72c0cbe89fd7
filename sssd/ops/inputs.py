"""Maps and numbers as users hold them, or an error that says how to pass them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from sssd.ops.objects import check_floating
from sssd.ops.reference.divergence import REDUCED

Maps = Mapping[str, Tensor] | Iterable[Tensor] | Tensor
SHAPES = {  # of a level, by its dimensions, in messages
    3: "(B, H, W)",
    4: "(B, C, H, W); one image's map is x[None], tokens (B, H W, C) are x.mT.unflatten(2, (H, W))",
}


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
            f"{name} is a {type(maps).__name__}: pass a list of tensors, one per level, finest "
            "first"
        )
    levels = list(maps)
    for level, x in enumerate(levels):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}[{level}] is a {type(x).__name__}: expected a tensor")
        if dims is not None and x.dim() != dims:
            raise TypeError(f"{name}[{level}] has shape {tuple(x.shape)}: expected {SHAPES[dims]}")
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
            f"{names[0]} has {len(a)} levels but {names[1]} has {len(b)}: pass one per level"
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
                f"{name} is a tensor that requires a gradient, but settings get none: pass "
                f"{name}=float({name})"
                + "; to learn a temperature, divide the maps by it and pass temperature=1.0"
                * (name == "temperature")
            )
        if value.numel() == 1:
            return value.item()
    elif isinstance(value, Real):  # NumPy's scalars are
        return value if isinstance(value, (int, float)) else float(value)
    raise TypeError(f"{name} is a {type(value).__name__}: expected a number")


def require_function(name: str, value: object) -> None:
    """Refuses what cannot be called with maps, such as a name, or a module's class."""
    if not callable(value) or isinstance(value, type):
        made = f"; {value.__name__}() makes one" if isinstance(value, type) else ""
        raise TypeError(
            f"{name} is {value!r}: expected a function or module of two lists of maps{made}"
        )


# ---- maps of two sides ---------------------------------------------------------------------------


def check_maps(given_student: Maps, given_teacher: Maps) -> tuple[list[Tensor], list[Tensor]]:
    """Both lists, each map dense in one of the two memory formats."""
    student, teacher = as_pair(given_student, given_teacher)
    for name, maps in (("student", student), ("teacher", teacher)):
        if len(maps) == 0:
            raise ValueError(f"{name} is empty: pass at least one level")
        for level, x in enumerate(maps):
            check_floating(f"{name}[{level}]", x.dtype)
            if x.dtype != maps[0].dtype:
                raise TypeError(
                    f"{name}[{level}] is {x.dtype} but {name}[0] is {maps[0].dtype}: use one dtype "
                    "for all levels of a side"
                )
            if x.device != student[0].device:
                raise ValueError(
                    f"{name}[{level}] is on {x.device} but student[0] is on {student[0].device}"
                )
    for level, (a, b) in enumerate(zip(student, teacher, strict=True)):
        if a.shape != b.shape:
            raise ValueError(
                f"level {level}: student has shape {tuple(a.shape)} but teacher {tuple(b.shape)}"
            )
    return [_dense(x) for x in student], [_dense(x) for x in teacher]


def check_weights(
    student: Maps, row_weights: Maps, maps: Sequence[Tensor], over: str
) -> list[Tensor]:
    """One tensor a level; a dict is matched with the student's, if that is one."""
    named = student if isinstance(student, Mapping) else maps
    _, levels = as_pair(named, row_weights, ("student", "row_weights"), None)
    kept = [d for d in range(4) if d not in REDUCED[over]]
    for level, (weights, x) in enumerate(zip(levels, maps, strict=True)):
        expected = tuple(x.shape[d] for d in kept)
        if tuple(weights.shape) != expected:
            raise ValueError(
                f"row_weights[{level}] has shape {tuple(weights.shape)}: expected {expected}, one "
                f"weight per row over {over!r}"
            )
        if weights.device != x.device:
            raise ValueError(
                f"row_weights[{level}] is on {weights.device} but the maps are on {x.device}"
            )
        if weights.requires_grad:
            raise ValueError(
                f"row_weights[{level}] requires a gradient: weights are constants, pass "
                "weights.detach()"
            )
    if torch.compiler.is_compiling():  # which cannot ask for what follows
        return [w.float() for w in levels]
    # Autograd saves no tensor of torch.inference_mode; these are small enough to copy.
    return [(w.clone() if w.is_inference() else w).float() for w in levels]


def _dense(x: Tensor) -> Tensor:
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.contiguous()


class _InFormat(torch.autograd.Function):
    """A copy in another memory format, whose gradient comes back in the input's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, memory_format: torch.memory_format) -> Tensor:
        last = x.is_contiguous(memory_format=torch.channels_last)
        ctx.memory_format = torch.channels_last if last else torch.contiguous_format
        return x.contiguous(memory_format=memory_format)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.contiguous(memory_format=ctx.memory_format), None


def in_format_of(a: Tensor, b: Tensor) -> Tensor:
    """Tensor b in the memory format of a, copied if it has another."""
    wanted = torch.contiguous_format if a.is_contiguous() else torch.channels_last
    return b if b.is_contiguous(memory_format=wanted) else _InFormat.apply(b, wanted)

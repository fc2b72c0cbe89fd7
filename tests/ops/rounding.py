"""What a rounding may cost: the quantities of which the tests make their tolerances."""

import torch
from torch import Tensor

UNIT = (
    2.0**-24
)  # largest relative error of one operation in float32, in which every kernel computes


def half_ulp(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Half the distance of a dtype's neighbours around each value."""
    kind = torch.finfo(dtype)
    normal = exact.abs().clamp(min=kind.smallest_normal)  # below it neighbours come no closer
    return torch.ldexp(torch.full_like(exact, kind.eps / 2), torch.frexp(normal).exponent - 1)

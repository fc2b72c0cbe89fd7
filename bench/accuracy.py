"""How far each form of the Jensen-Shannon divergence is from float64 as the two maps come close."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sssd.ops import js_divergence


def gap_maps(divergence: float, rows: int = 256, channels: int = 256) -> tuple[Tensor, Tensor]:
    """Maps (1, C, rows, 1) in float32 whose rows have about this divergence."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, channels, rows, 1)
    a = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    gap = math.sqrt(8 * divergence / 0.9)  # JS of p and p (1 + small) is about gap^2 / 8
    b = a + gap * torch.randn(shape, generator=generator, dtype=torch.float64)
    return a.float(), b.float()


def exact(a: Tensor, b: Tensor) -> Tensor:
    """Each row's divergence by the non-negative form in float64."""
    log_p, log_q = a.log_softmax(1), b.log_softmax(1)
    p, q = log_p.exp(), log_q.exp()
    d = (a - b) - (a.logsumexp(1, True) - b.logsumexp(1, True))
    u = torch.tanh(d / 2)

    def psi(x: Tensor) -> Tensor:
        far = (1 + x) * torch.log1p(x.clamp_min(-1 + 1e-16)) - x
        near = x * x * (1 / 2 - x * (1 / 6 - x * (1 / 12 - x * (1 / 20 - x * (1 / 30 - x / 42)))))
        return torch.where(x.abs() < 1e-3, near, far)

    return ((p + q) / 4 * (psi(u) + psi(-u))).sum(1)


def log_add_exp(a: Tensor, b: Tensor) -> Tensor:
    """The usual form: p (log p - log m) + q (log q - log m)."""
    log_p, log_q = a.log_softmax(1), b.log_softmax(1)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(1) / 2


def liger(a: Tensor, b: Tensor) -> Tensor:
    """The form of Liger-Kernel: p log p / 2 + q log q / 2 - m log m."""
    log_p, log_q = a.log_softmax(1), b.log_softmax(1)
    p, q = log_p.exp(), log_q.exp()
    m = (p + q) / 2
    return (p * log_p / 2 + q * log_q / 2 - m * m.log()).sum(1)


def ours(a: Tensor, b: Tensor) -> Tensor:
    """The fused operator, row by row."""
    return js_divergence([a], [b], rows="none")


FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ours, float64": exact,
    "ours": ours,
    "log-add-exp": log_add_exp,
    "Liger": liger,
}


def print_accuracy() -> None:
    """Relative error of the mean over 256 rows of 256 channels, and how many rows are negative."""
    print(f"{'JS':>9} " + "".join(f"{name:>26}" for name in list(FORMS)[1:]))
    for power in range(1, 14):
        a, b = gap_maps(10.0**-power)
        reference = exact(a.double(), b.double()).mean()
        line = f"{reference.item():9.2e} "
        for name in list(FORMS)[1:]:
            values = FORMS[name](a, b).double()
            error = ((values.mean() - reference) / reference).abs().item()
            negative = int((values < 0).sum())
            line += f"{error:15.1e}, {negative:3d} neg."
        print(line)


if __name__ == "__main__":
    print_accuracy()

"""What the tests of the divergence operator share: members of the family, maps, tolerances."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from sssd.ops import feature_divergence
from sssd.ops.divergence_kernels import numbers
from sssd.ops.reference.divergence import REDUCED
from tests.ops.rounding import half_ulp

# One of every kernel, normaliser, root and reduction: the table that the tests of all backends take
# their settings from. A new divergence is a row.
MEMBERS: dict[str, dict[str, Any]] = {
    "js": {},
    "js_level": {"root": "level", "rows": "sum", "temperature": 2.0},
    "js_row": {"root": "row", "elements": "mean"},
    "kl": {"divergence": "kl", "temperature": 4.0},
    "reverse_kl": {"divergence": "reverse_kl", "elements": "mean"},
    "softmax_mse": {"divergence": "mse", "elements": "mean"},
    "softmax_mse_row": {"divergence": "mse", "root": "row"},
    "standardize": {"normalize": "standardize", "divergence": "mse"},
    "unbiased": {"normalize": "standardize", "divergence": "mse", "unbiased": True, "eps": 1e-6},
    "l2": {"normalize": "l2", "divergence": "mse", "eps": 1e-12},
    "l2_cosine": {"normalize": "l2", "divergence": "cosine", "eps": 1e-12},
    "plain": {"normalize": "none", "divergence": "mse", "root": "level"},
    "cosine": {"normalize": "none", "divergence": "cosine", "eps": 1e-12},
    "pearson": {"normalize": "standardize", "divergence": "cosine", "eps": 1e-12},
}
# What the kernels know: `feature_divergence` makes reverse_kl of kl, with the lists swapped.
KERNEL_MEMBERS = {n: m for n, m in MEMBERS.items() if m.get("divergence") != "reverse_kl"}
DEFAULTS: dict[str, Any] = {
    "over": "channels", "normalize": "softmax", "divergence": "js", "root": None, "rows": "mean",
    "elements": "sum", "unbiased": False, "temperature": 1.0, "eps": 1e-5,
}  # fmt: skip
OVER = tuple(REDUCED)
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# Relative error of a value; error of a gradient relative to the largest of its map. The maps are
# rounded to the dtype before the reference sees them: what is left is fp32 arithmetic, to which
# `assert_matches_truth` adds the rounding of each gradient to its dtype.
SINGLE = (1e-6, 3e-6)
TOLERANCES = {
    torch.float64: (1e-11, 1e-10),
    torch.float32: SINGLE,
    torch.bfloat16: SINGLE,
    torch.float16: SINGLE,
}
# On a GPU a division, exponential or logarithm is right to 2 units in the last place. With such
# errors in each of them the emulator is off by 1.4e-6, and by 2.4e-6, or 7.9e-6 in rows of 16,800:
# three times as much.
ON_A_GPU = (5e-6, 2.5e-5)
# Of logits this far apart one has nearly all of its row, and a gradient that is 0 but for a small
# rest. The root of the row divides by what is small too: rounding that stays there would be 1e-1 of
# the largest gradient. What may stay is that of a softmax of logits of 100. (Over channels, cells:
# where rows are few the largest gradient may be such a rest itself.)
PEAKED, PEAKED_ERRORS = 30.0, (1e-6, 6e-5)
SOFTMAX_ROWS = {d: {"divergence": d, "root": "row"} for d in ("js", "kl", "mse")}


def numbers_of(**settings: Any) -> list[Any]:
    """All settings as the schema takes them: the defaults, but for those given."""
    return numbers(DEFAULTS | settings)


def row_weights(maps: Iterable[Tensor], over: str) -> list[Tensor]:
    """A random weight for each row, some of them 0."""
    shapes = ([n for d, n in enumerate(x.shape) if d not in REDUCED[over]] for x in maps)
    return [torch.rand(shape).round(decimals=1) for shape in shapes]


def make_maps(
    shapes, dtype=torch.float32, memory_format=torch.contiguous_format, seed=0, gap=1.0, spread=2.0
):
    """Student and teacher, `gap` apart, taking gradients."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = [], []
    for shape in shapes:
        a = torch.randn(shape, generator=generator, dtype=torch.float64) * spread
        b = a + gap * torch.randn(shape, generator=generator, dtype=torch.float64)
        for x, side in ((a, student), (b, teacher)):
            side.append(x.to(dtype).contiguous(memory_format=memory_format).requires_grad_())
    return student, teacher


def truth(student, teacher, upstream, **settings):
    """Values and gradients by the reference in float64."""
    a, b = ([x.detach().double().requires_grad_() for x in side] for side in (student, teacher))
    values = feature_divergence(a, b, reduction="none", backend="reference", **settings)
    return values, torch.autograd.grad((values * upstream.double()).sum(), a + b)


def assert_gradient(found, exact, error):
    """Within `error` times the largest of the map, and the rounding of each number to its dtype."""
    largest = exact.abs().max().item() if exact.numel() else 0.0
    bound = torch.full_like(exact, error * largest + 1e-9)
    if found.dtype in (torch.bfloat16, torch.float16):
        bound += half_ulp(exact.abs() + bound, found.dtype)
    beyond = (found.double() - exact).abs() - bound
    assert (beyond <= 0).all(), f"beyond the largest error by {beyond.max().item():.3g}"


def assert_matches_truth(student, teacher, backend="cpu", tolerance=None, **settings):
    """Values, (P,) or of all rows, and both gradients against float64."""
    values = feature_divergence(student, teacher, reduction="none", backend=backend, **settings)
    upstream = torch.linspace(1, 2, len(values), device=student[0].device)
    grads = torch.autograd.grad((values * upstream).sum(), student + teacher)
    expected, expected_grads = truth(student, teacher, upstream, **settings)
    value_error, gradient_error = tolerance or TOLERANCES[student[0].dtype]
    torch.testing.assert_close(values.double(), expected, rtol=value_error, atol=1e-10)
    for x, g, e in zip(student + teacher, grads, expected_grads, strict=True):
        assert g.dtype == x.dtype
        assert g.stride() == x.stride()
        assert_gradient(g, e, gradient_error)

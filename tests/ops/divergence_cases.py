"""What the tests of the divergence operator share: members of the family, maps, tolerances."""

import torch

from sssd.ops import feature_divergence

# One of every kernel, normaliser, root and reduction.
MEMBERS = {
    "js": {},
    "js_level": {"root": "level", "temperature": 2.0},
    "js_row": {"root": "row", "elements": "mean"},
    "js_beta": {"beta": 0.3, "root": "level", "rows": "sum"},
    "kl": {"divergence": "kl", "temperature": 4.0},
    "reverse_kl": {"divergence": "reverse_kl", "elements": "mean"},
    "softmax_mse": {"divergence": "mse", "root": "row"},
    "standardize": {"normalize": "standardize", "divergence": "mse"},
    "unbiased": {"normalize": "standardize", "divergence": "mse", "unbiased": True},
    "l2": {"normalize": "l2", "divergence": "mse"},
    "plain": {"normalize": "none", "divergence": "mse", "root": "level"},
    "cosine": {"normalize": "none", "divergence": "cosine"},
    "pearson": {"normalize": "standardize", "divergence": "cosine"},
}
OVER = ("channels", "cells", "image", "images_and_cells")
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# Relative error of a value; largest error of a gradient relative to the largest gradient. The maps
# are rounded to the dtype before the reference sees them; what is left is fp32 arithmetic, and the
# rounding of the gradient to its dtype.
TOLERANCES = {
    torch.float64: (1e-11, 1e-10),
    torch.float32: (1e-6, 3e-6),
    torch.bfloat16: (1e-6, 5e-3),
    torch.float16: (1e-6, 6e-4),
}


def tolerance_of(member, dtype):
    """The errors that a member may show."""
    if (member, dtype) == ("softmax_mse", torch.float32):
        # Where one mass is nearly all of a row, p - q is small beside the rounding of delta, which
        # is saved in float32, and the root over the row divides by it: 9e-5 is seen.
        return 1e-6, 3e-4
    return TOLERANCES[dtype]


def make_maps(shapes, dtype=torch.float32, memory_format=torch.contiguous_format, seed=0, gap=1.0):
    """Student and teacher, `gap` apart, taking gradients."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = [], []
    for shape in shapes:
        a = torch.randn(shape, generator=generator, dtype=torch.float64) * 2
        b = a + gap * torch.randn(shape, generator=generator, dtype=torch.float64)
        for x, side in ((a, student), (b, teacher)):
            side.append(x.to(dtype).contiguous(memory_format=memory_format).requires_grad_())
    return student, teacher


def truth(student, teacher, upstream, **settings):
    """Values and gradients by the reference in float64."""
    a, b = ([x.detach().double().requires_grad_() for x in side] for side in (student, teacher))
    values = feature_divergence(a, b, reduction="none", backend="reference", **settings)
    return values, torch.autograd.grad((values * upstream.double()).sum(), a + b)


def assert_matches_truth(student, teacher, backend="cpu", tolerance=None, **settings):
    """Values (P,) and both gradients against float64."""
    upstream = torch.linspace(1, 2, len(student), device=student[0].device)
    values = feature_divergence(student, teacher, reduction="none", backend=backend, **settings)
    grads = torch.autograd.grad((values * upstream).sum(), student + teacher)
    expected, expected_grads = truth(student, teacher, upstream, **settings)
    value_error, gradient_error = tolerance or TOLERANCES[student[0].dtype]
    torch.testing.assert_close(values.double(), expected, rtol=value_error, atol=1e-10)
    for x, g, e in zip(student + teacher, grads, expected_grads, strict=True):
        assert g.dtype == x.dtype
        assert g.stride() == x.stride()
        largest = e.abs().max().item() if e.numel() else 0.0
        slack = {torch.float16: 6e-8}.get(g.dtype, 1e-9)  # fp16: its smallest subnormal
        torch.testing.assert_close(g.double(), e, rtol=0, atol=gradient_error * largest + slack)

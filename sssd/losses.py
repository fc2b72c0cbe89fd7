"""Distances between lists of feature maps, as published, each one call of the fused operator.

Every loss takes the student's maps and the teacher's, P maps (B, C, H_l, W_l) each, and gives a
float32 scalar. The teacher takes a gradient unless it is detached.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from sssd.ops import channel_kl, feature_divergence, js_distance, pixel_kl
from sssd.ops.inputs import Maps, as_pair

Loss = Callable[[Maps, Maps], Tensor]


def sssd_loss(
    student: Maps,
    teacher: Maps,
    *,
    over: Literal["channels", "cells"] = "channels",
    temperature: float = 1.0,
) -> Tensor:
    """Mean over the levels of sqrt(D_JS), of softmax rows.

    Example:
        >>> import torch
        >>> maps = [torch.randn(1, 4, 2, 2)]
        >>> float(sssd_loss(maps, maps))
        0.0

    Source: Deng et al., "SSSD", ICIP 2023, arXiv 2303.05015, equation 1.
    """
    return js_distance(student, teacher, over=over, temperature=temperature)


def cwd_loss(student: Maps, teacher: Maps, *, temperature: float = 4.0) -> Tensor:
    """Channel-wise distillation: tau^2 / C sum over channels of KL(t, s), the sum over levels.

    Each channel is a distribution over its cells; the mean is over images and channels.

    Source: Shu et al., ICCV 2021, equation 4.
    """
    return channel_kl(student, teacher, temperature=temperature, reduction="sum")


def pixel_kl_loss(student: Maps, teacher: Maps, *, temperature: float = 1.0) -> Tensor:
    """Pixel-wise distillation: tau^2 times the mean over cells of KL(t, s), the sum over levels.

    Source: Liu et al., "Structured knowledge distillation", CVPR 2019, equation 2.
    """
    return pixel_kl(student, teacher, temperature=temperature, reduction="sum")


def lgd_loss(student: Maps, teacher: Maps) -> Tensor:
    """Mean squared error of instance-normalised maps, one mean over all elements of all levels.

    Source: Zhang et al., "LGD", AAAI 2022, section 3.4; eps 1e-5 under the root.
    """
    return standardized_mse(student, teacher, over="cells").sum()


def labelenc_loss(student: Maps, teacher: Maps) -> Tensor:
    """Mean squared error of one-group GroupNorms, one mean over all elements of all levels.

    Source: Hao et al., "LabelEnc", ECCV 2020, equation 3.
    """
    return standardized_mse(student, teacher, over="image").sum()


def pkd_loss(student: Maps, teacher: Maps) -> Tensor:
    """Half the mean squared error of standardised channels (1 - Pearson), the sum over levels.

    A channel is standardised over all images and cells, by the unbiased deviation plus 1e-6.

    Source: Cao et al., "PKD", NeurIPS 2022, equation 4.
    """
    return 0.5 * feature_divergence(
        student, teacher, over="images_and_cells", normalize="standardize", unbiased=True, eps=1e-6,
        divergence="mse", elements="mean", reduction="sum",
    )  # fmt: skip


def cosine_loss(student: Maps, teacher: Maps) -> Tensor:
    """1 - cosine of each cell's channels, the mean over cells, then over levels.

    Source: the feature loss of Ultralytics' distillation.
    """
    return feature_divergence(student, teacher, normalize="l2", divergence="cosine", eps=1e-8)


def weighted_mse_loss(student: Maps, teacher: Maps, cell_weights: Maps) -> Tensor:
    """Squared error of the cells, each with its own weight, summed: FGD's foreground term.

    Args:
        student: P maps (B, C, H_l, W_l).
        teacher: P maps of the same shapes.
        cell_weights: P masks (B, H_l, W_l); FGD gives a cell 1 / area of the smallest box on it.

    Returns:
        Scalar, the sum over all levels, images and cells.

    Source: Yang et al., "FGD", CVPR 2022, equation 8.
    """
    return feature_divergence(
        student, teacher, normalize="none", divergence="mse", rows="sum",
        row_weights=cell_weights, reduction="sum",
    )  # fmt: skip


def standardized_mse(student: Maps, teacher: Maps, *, over: Literal["cells", "image"]) -> Tensor:
    """Mean squared error of standardised maps, one mean over all elements of all levels.

    Args:
        student: P maps (B, C, H_l, W_l).
        teacher: P maps of the same shapes.
        over: what is standardised: a channel's cells (instance norm) or a whole image (group norm
            of one group).

    Returns:
        (P,) fp32: what each level adds to the mean.
    """
    student, teacher = as_pair(student, teacher)
    sums = feature_divergence(
        student, teacher, over=over, normalize="standardize", divergence="mse", rows="sum",
        reduction="none",
    )  # fmt: skip
    return sums / max(1, sum(x.numel() for x in student))


LOSSES: dict[str, Loss] = {
    "sssd": sssd_loss,
    "cwd": cwd_loss,
    "pixel_kl": pixel_kl_loss,
    "lgd": lgd_loss,
    "labelenc": labelenc_loss,
    "pkd": pkd_loss,
    "cosine": cosine_loss,
}

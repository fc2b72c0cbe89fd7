"""Distances between lists of feature maps, as published, on the fused operator.

Every loss takes the student's maps and the teacher's, P maps (B, C, H_l, W_l) each, and gives a
float32 scalar. The teacher takes a gradient unless it is detached. Each docstring names the weight
that the published recipe gives the loss beside the detector's own. The classes at the end are the
losses that need nothing but the two lists of maps, as modules, each times its weight.
tests/test_originals.py holds the values to those of the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from sssd.ops import feature_divergence, js_distance
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

    Weight: 75 in the paper, which does not say of which axis and mean. Our recipes take 4.7 of this
    sum over 256 channels, which is 75 of the mean over their elements.

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

    Weight: mmrazor's is 10 on the maps of a pyramid, 5 on logits, both with temperature 1; 4 is the
    paper's. The Jensen-Shannon divergence of a small gap is a quarter of this.

    Source: Shu et al., ICCV 2021, equation 4.
    """
    return temperature**2 * feature_divergence(
        student, teacher, over="cells", divergence="kl", temperature=temperature, reduction="sum"
    )


def pixel_kl_loss(student: Maps, teacher: Maps, *, temperature: float = 1.0) -> Tensor:
    """Pixel-wise distillation: tau^2 times the mean over cells of KL(t, s), the sum over levels.

    Weight: 10 with temperature 1 (the paper's lambda_1, on logits), times the images of a batch,
    over which the authors' code sums.

    Source: Liu et al., "Structured knowledge distillation", CVPR 2019, equation 2.
    """
    return temperature**2 * feature_divergence(
        student, teacher, divergence="kl", temperature=temperature, reduction="sum"
    )


def lgd_loss(student: Maps, teacher: Maps) -> Tensor:
    """Mean squared error of instance-normalised maps, one mean over all elements of all levels.

    Weight: 1, after an adapter of three 3x3 convolutions on the student's side.

    Source: Zhang et al., "LGD", AAAI 2022; eps 1e-5 under the root, as in its code.
    """
    return standardized_mse(student, teacher, over="cells").sum()


def labelenc_loss(student: Maps, teacher: Maps) -> Tensor:
    """Mean squared error of one-group GroupNorms, one mean over all elements of all levels.

    Weight: 1, after an adapter of three 3x3 convolutions on the student's side.

    Source: Hao et al., "LabelEnc", ECCV 2020, equation 3.
    """
    return standardized_mse(student, teacher, over="image").sum()


def pkd_loss(student: Maps, teacher: Maps) -> Tensor:
    """Half the mean squared error of standardised channels (1 - Pearson), the sum over levels.

    A channel is standardised over all images and cells, by the unbiased deviation plus 1e-6.

    Weight: 6 (Faster R-CNN) or 10 (RetinaNet), on the four finest levels (mmrazor).

    Source: Cao et al., "PKD", NeurIPS 2022, equation 4.
    """
    return 0.5 * feature_divergence(
        student, teacher, over="images_and_cells", normalize="standardize", unbiased=True, eps=1e-6,
        divergence="mse", elements="mean", reduction="sum",
    )  # fmt: skip


def cosine_loss(student: Maps, teacher: Maps) -> Tensor:
    """1 - cosine of each cell's channels, the mean over cells, then over levels.

    Weight: none is published. A development copy of Ultralytics' `nn/distill_model.py` (037e0482)
    has it, with the sum over levels; no release does: see `ultralytics_loss`.

    Source: the definition of the cosine; eps 1e-8 as in `torch.nn.functional.cosine_similarity`.
    """
    return feature_divergence(student, teacher, normalize="l2", divergence="cosine", eps=1e-8)


def ultralytics_loss(student: Maps, teacher: Maps, scores: Maps) -> Tensor:
    """Squared error weighted by the teacher's scores: sum(w d^2) / (sum(w) C), the sum over levels.

    Weight: 6 (the setting `dis`) times the batch size, as all losses there, after two 1x1
    convolutions with a ReLU between them on the student's side.

    Args:
        student: P maps (B, C, H_l, W_l).
        teacher: P maps of the same shapes.
        scores: P maps (B, H_l, W_l), each cell's best class score by the teacher, in [0, 1]: the
            sigmoid of the mean of its two heads' logits. Constants.

    Source: `DistillationModel.loss_sl2` of Ultralytics 8.4.80 to 8.4.190.
    """
    _, scores = as_pair(student, scores, ("student", "scores"), dims=3)
    student, teacher = as_pair(student, teacher)
    best = [w.detach().float() for w in scores]
    weights = [w / (w.sum() * x.shape[1] + 1e-9) for w, x in zip(best, student, strict=True)]
    return weighted_mse_loss(student, teacher, weights)


def weighted_mse_loss(student: Maps, teacher: Maps, cell_weights: Maps) -> Tensor:
    """Squared error of the cells, each with its own weight, summed: the form of FGD's terms.

    FGD's foreground gives a cell 1 / area of the smallest box on it. Its boxes are rounded outwards
    (floor .. ceil, both included), unlike those of `sssd.ops.paint_boxes`, and scaled by the image
    without padding: the last three lines below make that mask of a level. FGD then multiplies it by
    the teacher's spatial attention A_s (B, H_l, W_l), divides by B, and weighs the channels by the
    teacher's attention A_c (B, C, 1, 1), which is
    `weighted_mse_loss([s * A_c.sqrt()], [t * A_c.sqrt()], [mask * A_s / B])`.

    Weight: of FGD's foreground 1e-3 (RetinaNet), 1.6e-3 (FCOS) or 5e-5 (Faster R-CNN), of its
    background half of that.

    Args:
        student: P maps (B, C, H_l, W_l).
        teacher: P maps of the same shapes.
        cell_weights: P masks (B, H_l, W_l).

    Returns:
        Scalar, the sum over all levels, images and cells.

    Example:
        >>> import torch
        >>> from sssd.ops import label_heatmap
        >>> boxes, image = torch.tensor([[3.0, 5.0, 20.5, 12.0]]), torch.tensor([0])
        >>> size = torch.tensor([[32.0, 24.0]])  # width and height of each image without padding
        >>> b, h, w = 1, 6, 8  # images, rows and columns of the level
        >>> cells = boxes / size[image].repeat(1, 2) * boxes.new_tensor([w, h, w, h])
        >>> cells = torch.cat([cells[:, :2].floor(), cells[:, 2:].ceil()], dim=1)
        >>> mask = label_heatmap(cells, 0 * image, image, (h, w), [(h, w)], b, 1, profile="box",
        ...     strength=1 / (cells[:, 2:] - cells[:, :2] + 1).prod(1))[0][:, 0]

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


class DistillationLoss(nn.Module):
    """A loss of this file times its weight, as a module without parameters or state.

    Args:
        function: the loss.
        weight: what it is multiplied by; at least 0.
        settings: keyword arguments of the function.

    Example:
        >>> import torch
        >>> loss = CWDLoss(temperature=2)
        >>> loss
        CWDLoss(weight=10.0, temperature=2)
        >>> maps = [torch.randn(1, 4, 2, 2)]
        >>> float(loss(maps, maps))
        0.0
    """

    def __init__(self, function: Callable[..., Tensor], weight: float, **settings: Any) -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"weight is {weight}: expected a number >= 0")
        self.function, self.weight, self.settings = function, weight, settings

    def forward(self, student: Maps, teacher: Maps) -> Tensor:
        """Weighted loss, a float32 scalar.

        Args:
            student: P maps (B, C, H_l, W_l).
            teacher: P maps of the same shapes.
        """
        return self.weight * self.function(student, teacher, **self.settings)

    def extra_repr(self) -> str:
        """The weight and the settings."""
        named = {"weight": self.weight, **self.settings}
        return ", ".join(f"{name}={value!r}" for name, value in named.items())


class SSSDLoss(DistillationLoss):
    """`sssd_loss` with the weight of our recipes, the paper's 75 for 256 channels."""

    def __init__(
        self,
        weight: float = 4.7,
        over: Literal["channels", "cells"] = "channels",
        temperature: float = 1.0,
    ) -> None:
        super().__init__(sssd_loss, weight, over=over, temperature=temperature)


class CWDLoss(DistillationLoss):
    """`cwd_loss` with mmrazor's settings for the maps of a pyramid."""

    def __init__(self, weight: float = 10.0, temperature: float = 1.0) -> None:
        super().__init__(cwd_loss, weight, temperature=temperature)


class PixelKLLoss(DistillationLoss):
    """`pixel_kl_loss` with the weight of its paper."""

    def __init__(self, weight: float = 10.0, temperature: float = 1.0) -> None:
        super().__init__(pixel_kl_loss, weight, temperature=temperature)


class LGDLoss(DistillationLoss):
    """`lgd_loss` with the weight of its paper."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(lgd_loss, weight)


class LabelEncLoss(DistillationLoss):
    """`labelenc_loss` with the weight of its paper."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(labelenc_loss, weight)


class PKDLoss(DistillationLoss):
    """`pkd_loss` with mmrazor's weight for Faster R-CNN; RetinaNet's is 10."""

    def __init__(self, weight: float = 6.0) -> None:
        super().__init__(pkd_loss, weight)


class CosineLoss(DistillationLoss):
    """`cosine_loss`, for which no weight is published."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(cosine_loss, weight)


LOSSES: dict[str, Callable[[], DistillationLoss]] = {
    "sssd": SSSDLoss,
    "cwd": CWDLoss,
    "pixel_kl": PixelKLLoss,
    "lgd": LGDLoss,
    "labelenc": LabelEncLoss,
    "pkd": PKDLoss,
    "cosine": CosineLoss,
}
"""The modules by name."""

"""Labels as heatmaps: one channel per class, every object drawn with a profile, on all levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sssd.ops import box_kernels, dispatch
from sssd.ops.box_kernels import Combine, Profile
from sssd.ops.inputs import as_number
from sssd.ops.objects import (
    Assign,
    assigned_levels,
    check_count,
    check_device,
    check_floating,
    check_level_shapes,
    check_objects,
    check_per_object,
    check_range,
)
from sssd.ops.reference import heatmap as reference


def label_heatmap(
    boxes: Tensor,
    labels: Tensor,
    image_index: Tensor,
    image_size: tuple[int, int],
    level_shapes: Sequence[tuple[int, int]],
    batch_size: int,
    num_classes: int,
    *,
    profile: Profile = "gaussian",
    combine: Combine = "max",
    assign: Assign = "all",
    min_overlap: float = 0.7,
    strength: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    check: bool = False,
    backend: str | None = None,
) -> list[Tensor]:
    r"""Class heatmaps of the objects: each is drawn with a profile into the channel of its class.

    Profiles, where cell (i, j) of a level is at the point (x, y) = (j W / W_l, i H / H_l):

    - "box" (LGD): 1 on the cells that the box covers (see `pool_boxes`);
    - "pyramid" (LabelEnc): 1 - max(|x - cx| / w, |y - cy| / h) on the cells that the box covers:
      1 at the centre and 0.5 on the border;
    - "gaussian" (CenterNet): exp(-(dx^2 + dy^2) / 2 sigma^2), in cells from the one that holds the
      box's centre, within |dx|, |dy| <= r, with sigma = (2 r + 1) / 6 and r the largest whole shift
      of two corners that keeps `min_overlap`; a box centred outside the image draws nothing.
      CenterNet clips a box to the cells 0 .. W_l - 1, 0 .. H_l - 1 first, which this does not: give
      `boxes.clamp(min=0).minimum(boxes.new_tensor([W - W / W_l, H - H / H_l] * 2))` for its maps;
    - "gaussian_legacy": the same with the first, wrong radius of CornerNet, that the published
      CenterNet models were trained with.

    Args:
        boxes: (T, 4) xyxy in pixels of the padded batch, float32 or float64.
        labels: (T,) int64 or int32, the class of each box.
        image_index: (T,) int64 or int32, the image of each box, in any order.
        image_size: (H, W) of the padded batch in pixels.
        level_shapes: P pairs (H_l, W_l).
        batch_size: number of images B.
        num_classes: number of classes K.
        profile: how an object is drawn.
        combine: "max" or "sum" of the objects of one class at a cell.
        assign: which levels show an object: "all" of them; "fpn", the one of equation 1 of FPN,
            k = floor(4 + log2(sqrt(w h) / 224)), where the first level has stride 2^k by its shape
            and every further one doubles it; or P pairs (low, high) in pixels, for the levels with
            low <= max(w, h) < high.
        min_overlap: overlap that the Gaussian radius keeps, in (0, 1).
        strength: (T,) floating-point factor of each object, not negative, taken in float32; None
            is 1. LabelEnc draws it as min(1, 2 u), u ~ U(0, 1).
        dtype: of the heatmaps, floating point.
        check: also read what is on an accelerator, which is waited for, and refuse boxes that are
            not finite, naming the rows. Without it objects on an accelerator that belong to no
            image or class are left out.
        backend: "auto", "cuda", "triton", "cpu" or "reference"; None takes the current default.

    Returns:
        P heatmaps (B, K, H_l, W_l). They carry no gradient.

    Raises:
        TypeError: for an unsupported dtype, or a setting that requires a gradient.
        ValueError: for shapes, devices, options, labels or image indices that do not fit.

    Example:
        >>> boxes, labels = torch.tensor([[0.0, 0.0, 12.0, 12.0]]), torch.tensor([1])
        >>> heatmap, = label_heatmap(boxes, labels, torch.tensor([0]), (16, 16), [(4, 4)], 1, 3)
        >>> heatmap.shape, heatmap[0, 1].max().item()
        (torch.Size([1, 3, 4, 4]), 1.0)

    Source: Zhou et al., "Objects as Points", 2019, section 3; Hao et al., "LabelEnc", ECCV 2020,
    section 3.1; Lin et al., "Feature Pyramid Networks", CVPR 2017, equation 1.
    """
    shapes = check_level_shapes(level_shapes)
    _check_labels(boxes, labels, image_index, image_size, batch_size, num_classes, check=check)
    _check_options(profile, combine, min_overlap, strength, boxes)
    check_floating("dtype", dtype)
    shown = assigned_levels(boxes, image_size, shapes, assign)
    like = boxes.new_empty(0, dtype=dtype)
    choice = dispatch.choose(box_kernels.HEATMAP, like, backend)
    if choice.backend == "reference":
        return reference.label_heatmap(
            boxes,
            labels,
            image_index,
            image_size,
            shapes,
            batch_size,
            num_classes,
            profile=profile,
            combine=combine,
            assigned=shown,
            min_overlap=min_overlap,
            strength=strength,
            dtype=dtype,
        )
    return dispatch.call(
        box_kernels.HEATMAP,
        choice.backend,
        boxes.detach(),
        labels,
        image_index,
        list(image_size),
        box_kernels.flat(shapes),
        batch_size,
        num_classes,
        box_kernels.PROFILES.index(profile),
        box_kernels.COMBINES.index(combine),
        float(min_overlap),
        shown,
        None if strength is None else strength.detach(),
        like,
    )


def _check_labels(
    boxes: Tensor,
    labels: Tensor,
    image_index: Tensor,
    image_size: tuple[int, int],
    batch_size: int,
    num_classes: int,
    *,
    check: bool,
) -> None:
    check_count("num_classes", num_classes, 1)
    check_count("batch_size", batch_size, 0)
    check_objects(boxes, image_index, image_size, batch_size, check=check)
    check_per_object("labels", labels, boxes)
    check_range("labels", labels, num_classes, "the number of classes", check=check)


def _check_options(
    profile: str, combine: str, min_overlap: float, strength: Tensor | None, boxes: Tensor
) -> None:
    if profile not in box_kernels.PROFILES:
        names = ", ".join(map(repr, box_kernels.PROFILES))
        raise ValueError(f"profile is {profile!r}: pass one of {names}")
    if combine not in box_kernels.COMBINES:
        raise ValueError(f"combine is {combine!r}: pass 'max' or 'sum'")
    if not 0 < as_number("min_overlap", min_overlap) < 1:
        raise ValueError(f"min_overlap is {min_overlap}: expected a value in (0, 1)")
    if strength is None:
        return
    if strength.shape != (boxes.shape[0],) or not strength.is_floating_point():
        raise ValueError(
            f"strength is {strength.dtype} of shape {tuple(strength.shape)}: expected one "
            f"floating-point factor per box, ({boxes.shape[0]},)"
        )
    if strength.requires_grad:
        raise ValueError(
            "strength requires a gradient: strengths are constants, pass strength.detach()"
        )
    check_device("strength", strength, boxes)

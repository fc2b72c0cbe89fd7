"""Stands in for mmcv 2.1's compiled operators where those are not built: put it at mmcv/_ext.py.

Non-maximum suppression and RoIAlign are torchvision's, in fp32; the others refuse.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms as torchvision_nms
from torchvision.ops import roi_align


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Rows that are kept."""
    assert offset == 0
    return torchvision_nms(boxes.float(), scores.float(), iou_threshold)


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Writes to output."""
    assert pool_mode == 1  # the average
    size = aligned_height, aligned_width
    output.copy_(
        roi_align(input.float(), rois.float(), size, spatial_scale, sampling_ratio, aligned)
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Writes to grad_input."""
    settings = spatial_scale, aligned_height, aligned_width, *grad_input.shape
    backward = torch.ops.torchvision._roi_align_backward
    grad_input.copy_(
        backward(grad_output.float(), rois.float(), *settings, sampling_ratio, aligned)
    )


def __getattr__(name: str) -> Callable[..., Any]:
    if name.startswith("__"):
        raise AttributeError(name)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(f"{name} of mmcv is not built")

    return refuse

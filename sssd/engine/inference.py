"""Running a detector over images."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from sssd.detectors import Detector


@torch.no_grad()
def detect(
    detector: Detector, batches: Iterable[tuple[list[Tensor], list[dict[str, Any]]]]
) -> dict[Any, dict[str, Tensor]]:
    """Detections for every image of some batches.

    Args:
        detector: put into evaluation mode, and back as it was.
        batches: as `evaluation_loader` gives them.

    Returns:
        image_id -> boxes (n, 4) xyxy in pixels of the original image, scores (n,) and labels (n,),
        on the CPU.
    """
    device = next(detector.parameters()).device
    was_training = detector.training
    detector.eval()
    found: dict[Any, dict[str, Tensor]] = {}
    try:
        for images, targets in batches:
            outputs = detector([image.to(device) for image in images])
            for target, output in zip(targets, outputs, strict=True):
                found[target["image_id"]] = {name: v.cpu() for name, v in output.items()}
    finally:
        detector.train(was_training)
    return found

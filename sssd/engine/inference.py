"""Running a detector over images."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from sssd.data import DetectionDataset, evaluation_loader
from sssd.detectors import Detector
from sssd.engine.distributed import buffers_from_first, from_first, gather, rank, world_size
from sssd.engine.evaluate import evaluate_detections, to_coco
from sssd.engine.settings import EngineConfig


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


def evaluate_detector(
    detector: Detector,
    dataset: DetectionDataset,
    config: EngineConfig,
    engine: str = "pycocotools",
) -> dict[str, float]:
    """The 12 COCO numbers of a detector on a dataset.

    Every process looks at its share of the images, and the first one brings them together.

    Args:
        detector: what is evaluated.
        dataset: images and boxes.
        config: settings of the loop, whose batches are taken.
        engine: as in `evaluate_detections`.
    """
    buffers_from_first(detector)
    loader = evaluation_loader(
        dataset, config.part_size(world_size()), config.workers, rank(), world_size()
    )
    with loader:
        shares = gather(detect(detector, loader))

    def numbers() -> dict[str, float]:
        found = {image_id: one for share in shares for image_id, one in share.items()}
        ids = dataset.image_ids
        results = to_coco(ids, [found[image_id] for image_id in ids], dataset.category_ids)
        return evaluate_detections(dataset.ground_truth(), results, engine)

    return from_first(numbers)

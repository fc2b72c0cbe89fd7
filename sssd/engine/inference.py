"""Running a detector over images."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from sssd.data import DetectionDataset, evaluation_loader
from sssd.detectors import Detector
from sssd.engine.distributed import buffers_from_first, from_first, gather, rank, world_size
from sssd.engine.evaluate import Id, evaluate_detections, to_coco


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
    batch_size: int,
    workers: int = 0,
    engine: str = "pycocotools",
    category_ids: Sequence[Id | None] | None = None,
    console: Console | None = None,
) -> dict[str, float]:
    """The 12 COCO numbers of a detector on a dataset.

    Every process looks at its share of the images, and the first one brings them together.

    Args:
        detector: what is evaluated.
        dataset: images and boxes.
        batch_size: images at a time, on each process.
        workers: processes that load images, for each that evaluates.
        engine: as in `evaluate_detections`.
        category_ids: the dataset's own ids of the detector's classes, as in `to_coco`; by default
            the classes are the dataset's.
        console: where progress is shown, if it is a terminal.
    """
    buffers_from_first(detector)
    loader = evaluation_loader(dataset, batch_size, workers, rank(), world_size())
    shown = console is not None and console.is_terminal
    batches = track(loader, "evaluating", console=console, transient=True, disable=not shown)
    with loader:
        shares = gather(detect(detector, batches))

    def numbers() -> dict[str, float]:
        found = {image_id: one for share in shares for image_id, one in share.items()}
        ids = dataset.image_ids
        classes = dataset.category_ids if category_ids is None else category_ids
        results = to_coco(ids, [found[image_id] for image_id in ids], classes)
        return evaluate_detections(dataset.ground_truth(), results, engine)

    return from_first(numbers)

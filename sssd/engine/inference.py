"""Running a detector over images."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sssd.data import DetectionDataset, evaluation_loader
from sssd.detectors import Detector
from sssd.engine.distributed import buffers_from_first, from_first, gather, rank, world_size
from sssd.engine.evaluate import evaluate_detections, to_coco
from sssd.engine.settings import EngineConfig
from sssd.fusion import pack_objects

Found = dict[Any, dict[str, Tensor]]


@torch.no_grad()
def detect(
    detector: Detector,
    batches: Iterable[tuple[list[Tensor], list[dict[str, Any]]]],
    teacher: nn.Module | None = None,
) -> tuple[Found, Found]:
    """Detections for every image of some batches.

    Args:
        detector: put into evaluation mode, and back as it was.
        batches: as `evaluation_loader` gives them.
        teacher: what makes K_e of (maps, objects, image_size), such as `SelfDistillation.fusion`;
            the head then detects on K_e as well, with the labels given: the implicit teacher.

    Returns:
        The detector's own detections and the teacher's (none without one): image_id -> boxes (n, 4)
        xyxy in pixels of the original image, scores (n,) and labels (n,), on the CPU.
    """
    device = next(detector.parameters()).device
    parts = [part for part in (detector, teacher) if part is not None]
    was_training = [part.training for part in parts]
    for part in parts:
        part.eval()
    found: Found = {}
    taught: Found = {}
    try:
        for images, targets in batches:
            images = [image.to(device) for image in images]
            if teacher is None:
                _keep(found, targets, detector(images))
                continue
            given = [{key: target[key] for key in ("boxes", "labels")} for target in targets]
            batch = detector.prepare(images, given)
            assert batch.targets is not None
            objects = pack_objects(batch.targets, device, detector.num_classes)
            maps = detector.maps(batch)
            enhanced = teacher(maps, objects, batch.image_size)  # K_e
            _keep(found, targets, detector.detections(maps, batch))
            _keep(taught, targets, detector.detections(enhanced, batch))
    finally:
        for part, training in zip(parts, was_training, strict=True):
            part.train(training)
    return found, taught


def _keep(
    found: Found, targets: Iterable[dict[str, Any]], outputs: Iterable[dict[str, Tensor]]
) -> None:
    for target, output in zip(targets, outputs, strict=True):
        found[target["image_id"]] = {name: value.cpu() for name, value in output.items()}


def evaluate_detector(
    detector: Detector,
    dataset: DetectionDataset,
    config: EngineConfig,
    engine: str = "pycocotools",
    teacher: nn.Module | None = None,
) -> dict[str, float]:
    """The 12 COCO numbers of a detector on a dataset.

    Every process looks at its share of the images, and the first one brings them together.

    Args:
        detector: what is evaluated.
        dataset: images and boxes.
        config: settings of the loop, whose batches are taken.
        engine: as in `evaluate_detections`.
        teacher: as in `detect`; its numbers follow as "teacher/AP" and so on.
    """
    buffers_from_first(detector)
    loader = evaluation_loader(
        dataset, config.part_size(world_size()), config.workers, rank(), world_size()
    )
    with loader:
        shares = gather(detect(detector, loader, teacher))

    def numbers_of(whose: int) -> dict[str, float]:
        found = {image_id: one for share in shares for image_id, one in share[whose].items()}
        ids = dataset.image_ids
        results = to_coco(ids, [found[image_id] for image_id in ids], dataset.category_ids)
        return evaluate_detections(dataset.ground_truth(), results, engine)

    def numbers() -> dict[str, float]:
        taught = {} if teacher is None else numbers_of(1)
        return numbers_of(0) | {f"teacher/{name}": value for name, value in taught.items()}

    return from_first(numbers)

"""Running a detector over images."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from sssd.data import DetectionDataset, evaluation_loader
from sssd.data.faults import Id
from sssd.detectors import Detector
from sssd.engine.analysis import IOU, Analysis, ClassNumbers, analyse, by_class
from sssd.engine.distributed import (
    buffers_from_first,
    from_first,
    gather,
    is_first,
    rank,
    world_size,
)
from sssd.engine.evaluate import (
    Record,
    accumulated,
    evaluate_detections,
    library,
    numbers_of,
    to_coco,
)
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


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found. What follows from its detections is computed when first asked for.

    Attributes:
        numbers: the 12 COCO numbers, in 0..1; the teacher's are named "teacher/AP" and so on.
        detections: COCO results: dicts of image_id, category_id, bbox (x, y, width, height in
            pixels of the image file) and score. Of several processes the first alone has them.
        dataset: images and ground truth.
        engine: what computed the numbers, "pycocotools" or "faster-coco-eval".
    """

    numbers: dict[str, float]
    detections: list[Record] = field(repr=False)
    dataset: DetectionDataset = field(repr=False)
    engine: str = "pycocotools"
    _coco: Any = field(default=None, repr=False)  # the engine's own evaluation

    @cached_property
    def by_class(self) -> list[ClassNumbers]:
        """The numbers of each class, the one with the lowest AP first, those without objects last.

        They are in the order of the classes' ids where AP is equal.
        """
        rows = by_class(self._coco or self._matched)
        return sorted(rows, key=lambda row: math.inf if row.AP is None else row.AP)

    @cached_property
    def analysis(self) -> Analysis:
        """Precision over recall, F1 by threshold, confusion of classes, and each image's F1."""
        return analyse(self._matched)

    @property
    def thresholds(self) -> dict[str, Any]:
        """The F1-best thresholds, as `thresholds.json` holds them: "all", "by_class", "iou".

        "all" is None where no detection is right; classes of which none is are left out.
        """
        found = self.analysis
        best = zip(found.names, found.class_thresholds, strict=True)
        return {
            "all": None if found.threshold is None else found.threshold.score,
            "by_class": {name: one.score for name, one in best if one is not None},
            "iou": IOU,
        }

    @cached_property
    def _matched(self) -> Any:
        """Pycocotools' own evaluation; faster-coco-eval tells of no single match."""
        if self._coco is not None and self.engine == "pycocotools":
            return self._coco
        return accumulated(self.dataset.ground_truth(), self.detections)


def evaluate_detector(
    detector: Detector,
    dataset: DetectionDataset,
    batch_size: int,
    *,
    workers: int = 0,
    engine: str = "pycocotools",
    teacher: nn.Module | None = None,
    category_ids: Sequence[Id | None] | None = None,
    console: Console | None = None,
) -> Evaluation:
    """Runs a detector over a dataset.

    Every process looks at its share of the images, and the first one brings them together.

    Args:
        detector: what is evaluated.
        dataset: images and boxes.
        batch_size: images that one process sees at a time.
        workers: processes that load images, for each process.
        engine: as in `evaluate_detections`.
        teacher: as in `detect`; its numbers follow as "teacher/AP" and so on.
        category_ids: the dataset's ids of the detector's classes, None for one that it does not
            have; by default the dataset's classes are the detector's.
        console: where to show progress, if it is a terminal or a notebook.
    """
    library(engine)  # refuses one that is not there, before the work
    buffers_from_first(detector)
    ids = dataset.category_ids if category_ids is None else category_ids
    loader = evaluation_loader(dataset, batch_size, workers, rank(), world_size())
    batches = track(
        loader,
        "evaluating",
        console=console,
        transient=True,
        disable=console is None or not (console.is_terminal or _has_widgets(console)),
    )
    with torch.cuda.device_of(next(detector.parameters())), loader:  # pinned memory: on no other
        shares = gather(detect(detector, _labelled(batches, ids, dataset), teacher))

    def results(whose: int) -> list[Record]:
        found = {image_id: one for share in shares for image_id, one in share[whose].items()}
        return to_coco(dataset.image_ids, [found[i] for i in dataset.image_ids], ids)

    if not is_first():
        return Evaluation(from_first(dict), [], dataset, engine)
    truth, own = dataset.ground_truth(), results(0)
    evaluation = accumulated(truth, own, engine)
    numbers = numbers_of(evaluation)
    if teacher is not None:
        taught = evaluate_detections(truth, results(1), engine)
        numbers |= {f"teacher/{name}": value for name, value in taught.items()}
    return Evaluation(from_first(lambda: numbers), own, dataset, engine, evaluation)


def _has_widgets(console: Console) -> bool:
    """Whether it is a notebook that can show a bar; rich would warn in one that cannot."""
    return console.is_jupyter and find_spec("ipywidgets") is not None


def _labelled(
    batches: Iterable[tuple[list[Tensor], list[dict[str, Any]]]],
    category_ids: Sequence[Id | None],
    dataset: DetectionDataset,
) -> Iterator[tuple[list[Tensor], list[dict[str, Any]]]]:
    """The batches with the labels that the detector has for the dataset's classes."""
    known = {category: label for label, category in enumerate(category_ids)}
    labels = torch.tensor([known.get(category, -1) for category in dataset.category_ids])
    for images, targets in batches:
        yield images, [{**target, "labels": labels[target["labels"]]} for target in targets]

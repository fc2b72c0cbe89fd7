"""Images of an evaluation that say how good it is: the worst, typical and good ones."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from sssd.data.faults import Id
from sssd.engine.analysis import Analysis
from sssd.engine.drawing import draw
from sssd.engine.evaluate import Record, in_order
from sssd.engine.inference import Evaluation
from sssd.report.page import Block, Heading, Pair, Photo, Text

WORST, TYPICAL, GOOD = 4, 2, 2  # images
PANEL = 560  # pixels of a picture's longer side
RULE = (
    "Chosen by the F1 of each image at IoU 0.5 and that score threshold: the lowest (ties: most "
    "errors first), those around the median, and the highest (ties: most objects first). Images "
    "with neither objects nor detections are left out."
)


def choose(analysis: Analysis) -> dict[str, list[int]]:
    """Places of the worst, typical and good images, in the order of the images' ids.

    No image is in two of the lists; there are fewer where there are few images.
    """
    errors = analysis.wrong + analysis.objects - analysis.right
    f1 = analysis.image_f1
    order = np.lexsort((analysis.objects, -errors, f1))
    order = order[~np.isnan(f1[order])]
    worst, rest = order[:WORST], order[WORST:]
    good, rest = rest[max(len(rest) - GOOD, 0) :][::-1], rest[: max(len(rest) - GOOD, 0)]
    middle = len(order) // 2 - len(worst)
    begin = min(max(middle - TYPICAL // 2, 0), max(len(rest) - TYPICAL, 0))
    typical = rest[begin : begin + TYPICAL]
    return {"worst": worst.tolist(), "typical": typical.tolist(), "good": good.tolist()}


def examples(evaluation: Evaluation) -> list[Block]:
    """Ground truth beside detections of the images that `choose` gives."""
    analysis, dataset = evaluation.analysis, evaluation.dataset
    score = 1.1 if analysis.threshold is None else analysis.threshold.score
    found = _by_image(evaluation, score)
    order = in_order(dataset.image_ids)
    above = f"Detections with a score of at least {score:.2f}, where F1 is best. {RULE}"
    blocks: list[Block] = [Text(RULE if analysis.threshold is None else above)]
    for kind, places in choose(analysis).items():
        if places:
            blocks.append(Heading(3, f"{kind.capitalize()} images"))
        for place in places:
            index = order[place]
            image, target = dataset[index]
            pixels, name = image.as_subclass(torch.Tensor), dataset.image_path(index)
            told = (
                f"found {analysis.right[place]} of {analysis.objects[place]}, "
                f"{analysis.wrong[place]} false, F1 {analysis.image_f1[place]:.2f}"
            )
            truth = f"truth: {name.rsplit('/', 1)[-1]}"
            pair = ((truth, target), (told, found.get(dataset.image_id(index), _objects([], {}))))
            blocks.append(
                Pair([Photo(title, _jpeg(pixels, o, dataset.classes)) for title, o in pair])
            )
    return blocks


def _by_image(evaluation: Evaluation, score: float) -> dict[Id, dict[str, Tensor]]:
    labels = {category: i for i, category in enumerate(evaluation.dataset.category_ids)}
    rows: dict[Id, list[Record]] = {}
    for one in evaluation.detections:
        if one["score"] >= score:
            rows.setdefault(one["image_id"], []).append(one)
    return {image: _objects(own, labels) for image, own in rows.items()}


def _objects(rows: Sequence[Record], labels: Mapping[Id, int]) -> dict[str, Tensor]:
    """COCO results of an image as `draw` takes them, the best first."""
    rows = sorted(rows, key=lambda row: -row["score"])
    boxes = torch.tensor([row["bbox"] for row in rows]).reshape(-1, 4)  # (n, 4) x, y, w, h
    return {
        "boxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1),
        "labels": torch.tensor([labels[row["category_id"]] for row in rows], dtype=torch.int64),
        "scores": torch.tensor([row["score"] for row in rows]),
    }


def _jpeg(pixels: Tensor, objects: dict[str, Tensor], classes: Sequence[str]) -> bytes:
    file = io.BytesIO()
    draw(pixels, objects, classes, PANEL).save(file, "JPEG", quality=88, subsampling=0)
    return file.getvalue()

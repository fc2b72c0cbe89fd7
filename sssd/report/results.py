"""The sections of a report on what an evaluation found, and the same as files."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sssd.data import DetectionDataset
from sssd.engine.analysis import ClassNumbers, Threshold
from sssd.engine.evaluate import METRICS
from sssd.engine.files import CLASSES, CONFUSION, THRESHOLDS, write_text
from sssd.engine.inference import Evaluation
from sssd.report import charts
from sssd.report.page import Block, Grid, Numbers, Table, Text


def numbers(evaluation: Evaluation) -> list[Block]:
    """The 12 numbers, and the teacher's."""
    found = evaluation.numbers
    rows = []
    for name, meaning in METRICS.items():
        taught = found.get(f"teacher/{name}")
        teacher = "" if taught is None else f"; teacher {percent(taught)}"
        rows.append((name, percent(found[name]), meaning + teacher))
    blocks: list[Block] = [Text("In percent; a dash where there are no objects."), Numbers(rows)]
    if "teacher/AP" in found:
        blocks.append(
            Text(
                "The teacher is the same head on K_e, which is given the labels: the upper limit "
                "of what can be distilled."
            )
        )
    return blocks


def percent(value: float | None) -> str:
    """A number in percent; COCO's -1 and None stand for no objects."""
    return "-" if value is None or value < 0 else f"{100 * value:.1f}"


def classes(evaluation: Evaluation, train_set: DetectionDataset | None) -> list[Block]:
    """AP by class, the worst first, with counts and the F1-best threshold."""
    analysis = evaluation.analysis
    learnt: list[int] = []
    if train_set is not None:
        labels = train_set.boxes.labels[~train_set.boxes.crowd]
        learnt = np.bincount(labels, minlength=train_set.num_classes).tolist()
    rows = []
    for row in evaluation.by_class:
        found = analysis.class_thresholds[row.label]
        at_best = ["-"] * 4
        if found is not None:
            at_best = [f"{found.score:.2f}", *(percent(value) for value in found[1:])]
        count = [f"{learnt[row.label]:,}"] if learnt else []
        values = (row.AP, row.AP50, row.AP75, row.APs, row.APm, row.APl, row.AR)
        counts = [*count, f"{row.objects:,}", f"{row.images:,}"]
        rows.append([row.name, *counts, *map(percent, values), *at_best])
    head = ["class", *(["trained on"] if learnt else []), "objects", "images"]
    head += ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "threshold", "F1", "prec.", "rec."]
    text = "Sorted by AP, lowest first; in percent, a dash where there is nothing to count."
    counted = ' "Trained on" counts the objects of the training set.' if learnt else ""
    return [Text(text + counted), Table(head, rows)]


def thresholds(evaluation: Evaluation) -> list[Block]:
    """Precision over recall and F1 by threshold."""
    analysis = evaluation.analysis
    best = analysis.threshold
    told = "**No detection is correct**: no object is found with IoU 0.5 at any score."
    if best is not None:
        told = (
            f"**F1 is best at a score threshold of {best.score:.2f}**: F1 {best.f1:.3f}, precision "
            f"{best.precision:.3f}, recall {best.recall:.3f}, over all classes at IoU 0.5. The "
            "table above has the values of each class."
        )
    named = charts.CLASSES_NAMED
    few = f" Only the {named} worst classes are labeled." if len(analysis.names) > named else ""
    return [Text(told + few), Grid([charts.precision_recall(analysis), charts.f1(analysis)])]


def confusion(evaluation: Evaluation) -> list[Block]:
    """Which class is found where which one is."""
    analysis = evaluation.analysis
    if analysis.threshold is None:
        return []
    picture, shown = charts.confusion(analysis)
    left_out = len(analysis.names) - shown
    fewer = f" {left_out} classes with fewer errors are left out." if left_out else ""
    return [
        Text(
            f"Counts at a score threshold of {analysis.threshold.score:.2f}; the shade is the "
            "share of the row. In each image, objects and detections of any class are matched by "
            "IoU, from the largest down to 0.5; unmatched objects are missed, unmatched detections "
            "are false. Crowd regions are ignored, and so are detections of which half or more "
            f"lies on one.{fewer}"
        ),
        picture,
    ]


def write_tables(evaluation: Evaluation, folder: Path) -> None:
    """Writes `classes.csv`, `confusion.csv` and, if a detection is right, `thresholds.json`.

    Raises:
        RunError: a file cannot be written.
    """
    analysis = evaluation.analysis
    best, nothing = analysis.class_thresholds, [None] * len(Threshold._fields)
    head = [*ClassNumbers._fields, *Threshold._fields]
    rows = [[*row, *(best[row.label] or nothing)] for row in evaluation.by_class]
    files = {CLASSES: _csv([head, *rows])}
    names = [*analysis.names, "background"]
    matrix = [[name, *row] for name, row in zip(names, analysis.confusion.tolist(), strict=True)]
    files[CONFUSION] = _csv([["truth \\ found", *names], *matrix])
    if analysis.threshold is None:
        (folder / THRESHOLDS).unlink(missing_ok=True)  # of the run when it was shorter
    else:
        files[THRESHOLDS] = json.dumps(evaluation.thresholds, indent=2) + "\n"
    for name, text in files.items():
        write_text(folder / name, text)


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()

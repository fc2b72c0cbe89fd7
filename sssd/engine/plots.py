"""Pictures of a run: curves, and detections beside the ground truth."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # by itself: pyplot's figures and backend are a notebook's own
from PIL import Image, ImageDraw, ImageFont

from sssd.data import DetectionDataset
from sssd.detectors import Detector
from sssd.engine.drawing import DEJAVU, draw, shown
from sssd.engine.log import read_metrics

SCORE_SHOWN = 0.3  # detections below it are left out of pictures
PANEL, GAP, HEADER = 480, 6, 28  # pixels


def plot_detections(
    detector: Detector, dataset: DetectionDataset, path: Path, count: int = 4
) -> None:
    """Draws ground truth (top) and detections (bottom) of images spread over a dataset."""
    truths, guesses = [], []
    device = next(detector.parameters()).device
    detector.eval()
    for index in spread(dataset, count):
        image, target = dataset[index]
        pixels = image.as_subclass(torch.Tensor)
        with torch.no_grad():
            (found,) = detector([pixels.to(device).float() / 255])
        truths.append(draw(pixels, target, dataset.classes, PANEL))
        guesses.append(draw(pixels, shown(found, SCORE_SHOWN), dataset.classes, PANEL))
    height = HEADER + max(panel.height for panel in truths)
    sheet = Image.new("RGB", ((PANEL + GAP) * len(truths) - GAP, 2 * height), "white")
    canvas, font = ImageDraw.Draw(sheet), ImageFont.truetype(DEJAVU, 17)
    for row, (title, panels) in enumerate(
        (("ground truth", truths), (f"detections above {SCORE_SHOWN:g}", guesses))
    ):
        canvas.text((4, row * height + 4), title, "black", font)
        for column, panel in enumerate(panels):
            sheet.paste(panel, (column * (PANEL + GAP), row * height + HEADER))
    sheet.save(path)


def plot_curves(run: Path) -> None:
    """Draws losses, learning rate and lambda, and AP of a run to `curves.png`."""
    rows = read_metrics(run)
    steps = [row for row in rows if "loss" in row]
    evaluations = [row for row in rows if "AP" in row]
    if not steps:
        return
    figure = Figure(figsize=(13, 3.8))
    losses, rates, scores = figure.subplots(1, 3)
    for kind in ("detection", "teacher", "distillation"):
        _line(losses, steps, kind, lambda row, kind=kind: _sum(row, f"loss/{kind}"))
    losses.set_ylabel("loss")
    _line(rates, steps, "learning rate", lambda row: row["learning_rate"])
    rates.set_ylabel("learning rate")
    if any("lambda" in row for row in steps):
        beside = rates.twinx()
        _line(beside, steps, "lambda", lambda row: row.get("lambda"), color="C1")
        beside.set_ylabel("lambda", color="C1")
        beside.set_ylim(bottom=0)
    for name in ("AP", "AP50"):
        at = [row["iteration"] for row in evaluations]
        scores.plot(at, [row[name] for row in evaluations], "o-", label=name)
    scores.set_ylim(0, 1)
    scores.set_ylabel("average precision")
    for axes in (losses, rates, scores):
        axes.set_xlabel("iteration")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    losses.legend()
    scores.legend()
    figure.tight_layout()
    figure.savefig(run / "curves.png", dpi=110)


def spread(dataset: DetectionDataset, count: int) -> list[int]:
    """Indices of images spread over a dataset."""
    indices = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round()
    return [int(index) for index in indices]


def _sum(row: dict[str, Any], prefix: str) -> float | None:
    values = [value for name, value in row.items() if name.startswith(prefix)]
    return sum(values) if values else None


def _line(axes: Axes, rows: list[dict[str, Any]], label: str, value: Any, **style: Any) -> None:
    points = [(row["iteration"], value(row)) for row in rows if value(row) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, **style)

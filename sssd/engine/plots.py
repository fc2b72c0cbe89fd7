"""Pictures of a run: curves, and detections beside the ground truth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only: no display is needed
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torchvision.ops import nms

from sssd.data import DetectionDataset
from sssd.detectors import Detector
from sssd.engine.log import read_metrics

SCORE_SHOWN = 0.3  # detections below it are left out of pictures


def plot_detections(
    detector: Detector, dataset: DetectionDataset, path: Path, count: int = 4
) -> None:
    """Draws ground truth (top) and detections (bottom) of images spread over a dataset."""
    chosen = spread(dataset, count)
    count = len(chosen)
    figure, axes = plt.subplots(2, count, figsize=(3.2 * count, 6.6), squeeze=False)
    device = next(detector.parameters()).device
    detector.eval()
    for column, index in enumerate(chosen):
        image, target = dataset[index]
        pixels = image.as_subclass(torch.Tensor)
        with torch.no_grad():
            (found,) = detector([pixels.to(device).float() / 255])
        found = {name: value[found["scores"] > SCORE_SHOWN] for name, value in found.items()}
        # One box an object: second guesses of the class would be drawn over the first.
        keep = nms(found["boxes"], found["scores"], iou_threshold=0.5)
        scores = found["scores"][keep].tolist()
        truth, guess = axes[0, column], axes[1, column]
        draw_boxes(truth, pixels, target["boxes"].tolist(), class_names(dataset, target["labels"]))
        names = class_names(dataset, found["labels"][keep])
        captions = [f"{name} {score:.2f}" for name, score in zip(names, scores, strict=True)]
        draw_boxes(guess, pixels, found["boxes"][keep].tolist(), captions)
    axes[0, 0].set_title("ground truth", loc="left")
    axes[1, 0].set_title(f"detections above {SCORE_SHOWN:g}", loc="left")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_curves(run: Path) -> None:
    """Draws losses, learning rate and lambda, and AP of a run to `curves.png`."""
    rows = read_metrics(run)
    steps = [row for row in rows if "loss" in row]
    evaluations = [row for row in rows if "AP" in row]
    if not steps:
        return
    figure, (losses, rates, scores) = plt.subplots(1, 3, figsize=(13, 3.8))
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
    plt.close(figure)


def spread(dataset: DetectionDataset, count: int) -> list[int]:
    """Indices of images spread over a dataset."""
    indices = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round()
    return [int(index) for index in indices]


def class_names(dataset: DetectionDataset, labels: torch.Tensor) -> list[str]:
    """Names of the classes that labels stand for."""
    return [dataset.classes[label] for label in labels.tolist()]


def draw_boxes(
    axes: Axes,
    pixels: torch.Tensor,
    boxes: Sequence[Sequence[float]],
    captions: Sequence[str],
    size: tuple[int, int] | None = None,
) -> None:
    """Draws an image and boxes.

    Args:
        axes: where.
        pixels: image (3, H, W) uint8.
        boxes: xyxy.
        captions: of the boxes.
        size: (height, width) of the image in the pixels of the boxes; its own by default.
    """
    height, width = size or pixels.shape[1:]
    axes.imshow(pixels.permute(1, 2, 0).numpy(), extent=(0, width, height, 0))
    for (x1, y1, x2, y2), caption in zip(boxes, captions, strict=True):
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="lime", lw=1.5))
        style = {"facecolor": "black", "alpha": 0.6, "pad": 0.8, "edgecolor": "none"}
        axes.text(x1, max(y1 - 2, 6), caption, color="white", fontsize=7, bbox=style)
    axes.set_axis_off()


def _sum(row: dict[str, Any], prefix: str) -> float | None:
    values = [value for name, value in row.items() if name.startswith(prefix)]
    return sum(values) if values else None


def _line(axes: Axes, rows: list[dict[str, Any]], label: str, value: Any, **style: Any) -> None:
    points = [(row["iteration"], value(row)) for row in rows if value(row) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, **style)

"""Pictures of what a method compares: the maps K, the label-enhanced maps K_e, and their gap."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from sssd.data import DetectionDataset
from sssd.engine.drawing import draw
from sssd.methods import Comparison, Method

LEVELS_SHOWN = 3  # the finest ones; those above are a few cells
PANEL = 1.4  # width of a map, in inches
PICTURE = 480  # pixels of the image's longer side


def draw_maps(method: Method, dataset: DetectionDataset, indices: Sequence[int]) -> Figure | None:
    """K, K_e, |K - K_e| and the distance's cells, of some images of a dataset.

    A map of C channels is shown as each cell's root mean square over them. K, K_e and their
    difference have one scale of colours in the whole picture, the distance another.

    Returns:
        None for plain training, which has nothing to compare.
    """
    was_training = method.training
    method.eval()
    try:
        rows = [(i, _compare(method, dataset, i)) for i in indices]
    finally:
        method.train(was_training)
    compared = [(index, comparison) for index, comparison in rows if comparison is not None]
    return _draw(compared, dataset) if compared else None


def _compare(method: Method, dataset: DetectionDataset, index: int) -> Comparison | None:
    image, target = dataset[index]
    device = next(method.parameters()).device
    pixels = image.as_subclass(torch.Tensor).to(device).float() / 255
    return method.compare([pixels], [{k: target[k].to(device) for k in ("boxes", "labels")}])


def _draw(compared: list[tuple[int, Comparison]], dataset: DetectionDataset) -> Figure:
    levels = min(LEVELS_SHOWN, len(compared[0][1].student))
    panels = [_panels(comparison, levels) for _, comparison in compared]
    name = compared[0][1].name
    titles = ["$K$ as compared", "$K_e$", r"$|K - K_e|$", name]
    heights = [levels * _height_of(comparison) + 0.2 for _, comparison in compared] + [0.45]
    size = PANEL * (levels + 4), PANEL * sum(heights)
    figure = Figure(figsize=size, layout="constrained")
    blocks = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    value_top = _top(p for image in panels for row in image for p in row[:3])
    gap_top = _top(row[3] for image in panels for row in image)
    for number, (image, (index, comparison)) in enumerate(zip(panels, compared, strict=True)):
        grid = blocks[number, 0].subgridspec(levels, levels + 4)
        _draw_image(figure.add_subplot(grid[:, :levels]), comparison, dataset, index)
        for level, row in enumerate(image):
            for column, panel in enumerate(row):
                axes = figure.add_subplot(grid[level, levels + column])
                if column < 3:
                    values = _draw_map(axes, panel, comparison, cmap="viridis", vmax=value_top)
                else:
                    gaps = _draw_map(axes, panel, comparison, cmap="inferno", vmax=gap_top)
                if level == 0:
                    axes.set_title(titles[column], fontsize=10, parse_math=True)
                if column == 0:
                    axes.set_ylabel("{} x {}".format(*panel.shape), fontsize=8)
    below = blocks[-1, 0].subgridspec(1, levels + 4)
    for place, shown, label in (
        (below[levels : levels + 3], values, "root mean square over the channels of a cell"),
        (below[levels + 3], gaps, f"{name} per cell"),
    ):
        axes = figure.add_subplot(place)
        bar = figure.colorbar(shown, cax=axes, orientation="horizontal", extend="max")
        bar.set_label(label, fontsize=9)
        bar.ax.tick_params(labelsize=8)
    return figure


def _height_of(comparison: Comparison) -> float:
    """Height of an image, in widths; pictures of long ones stay legible."""
    height, width = comparison.batch.sizes[0]
    return min(max(height / width, 0.5), 2.0)


def _panels(comparison: Comparison, levels: int) -> list[list[np.ndarray]]:
    """K, K_e, their difference and the cells' distances of each level, each (H_l, W_l)."""
    rows = zip(comparison.student, comparison.teacher, comparison.cells, strict=True)

    def strength(maps: torch.Tensor) -> np.ndarray:
        return maps[0].float().square().mean(0).sqrt().cpu().numpy()

    return [
        [strength(s), strength(t), strength(s - t), cells[0].cpu().numpy()]
        for s, t, cells in list(rows)[:levels]
    ]


def _top(panels: Any) -> float:
    """Upper end of a scale, which a few outliers do not set."""
    return max(float(np.percentile(np.concatenate([p.ravel() for p in panels]), 99.5)), 1e-6)


def _draw_image(axes: Axes, comparison: Comparison, dataset: DetectionDataset, index: int) -> None:
    image, target = dataset[index]
    height, width = comparison.batch.sizes[0]
    picture = draw(image.as_subclass(torch.Tensor), target, dataset.classes, PICTURE)
    axes.imshow(picture, extent=(0, width, height, 0))
    axes.set_axis_off()


def _draw_map(axes: Axes, values: np.ndarray, comparison: Comparison, **style: Any) -> AxesImage:
    """A map over the image, without the part that stands for padding."""
    batch = comparison.batch
    assert batch.targets is not None
    (padded_height, padded_width), (height, width) = batch.image_size, batch.sizes[0]
    shown = axes.imshow(values, extent=(0, padded_width, padded_height, 0), vmin=0, **style)
    for x1, y1, x2, y2 in batch.targets[0]["boxes"].tolist():
        outline = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, lw=0.6, edgecolor="white")
        axes.add_patch(outline)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_xticks([])
    axes.set_yticks([])
    return shown

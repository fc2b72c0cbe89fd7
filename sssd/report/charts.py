"""The charts of a run's report, and how a figure becomes SVG text."""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # by itself: pyplot's figures and backend are a notebook's own

from sssd.engine.analysis import THRESHOLDS, Analysis
from sssd.report.page import Picture

COLOURS = ("#4d4d4d", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe-Ito
SIZE = (4.6, 3.0)  # inches of one chart, which a telephone shows whole
POINTS = 300  # of a line; more rows are averaged
CLASSES_NAMED = 6  # in a legend
CLASSES_CONFUSED = 30  # in the confusion matrix
Rows = Sequence[Mapping[str, Any]]


def curves(rows: Rows) -> list[Picture]:
    """What `metrics.jsonl` has of a run: AP, losses, rates, distance and speed over iterations."""
    steps = [row for row in rows if "loss" in row]
    scores = [row for row in rows if "AP" in row]
    kinds = [k for k in ("detection", "teacher", "distillation") if _has(steps, f"loss/{k}")]
    parts = sorted({name.split("/")[2] for row in steps for name in row if _is_part(name)})
    by_part = [
        Line("" if dotted else part, f"loss/{kind}/{part}", colour, dotted)
        for dotted, kind in enumerate(kinds[:2])
        for colour, part in enumerate(parts, start=1)
    ]
    scores = [{n: 100 * v if "AP" in n else v for n, v in row.items()} for row in scores]
    average = [Line("AP", "AP", 1), Line("AP50", "AP50", 2)]
    average += [Line("teacher's AP", "teacher/AP", 1, True)]
    losses = [Line(kind, f"loss/{kind}", colour) for colour, kind in enumerate(kinds, start=1)]
    teacher = " (dotted: the teacher's)" if "teacher" in kinds else ""
    charts = [
        _chart("ap", "Average precision (%)", scores, average, marker="o", ms=3.5),
        _chart("losses", "Losses", steps, losses) if len(kinds) > 1 else None,
        _chart("parts", f"Losses by part{teacher}", steps, by_part),
        _rates(steps),
        _chart("distance", "Distance between K and K_e, mean over levels", steps,
               [Line("distance", "distance/", 1)]),
        _chart("speed", "Images per second", steps, [Line("images/s", "images_per_second", 0)]),
    ]  # fmt: skip
    return [chart for chart in charts if chart is not None]


def _is_part(name: str) -> bool:
    return name.startswith(("loss/detection/", "loss/teacher/"))


def _has(rows: Rows, beginning: str) -> bool:
    return any(name.startswith(beginning) for row in rows for name in row)


class Line(NamedTuple):
    """A line of a chart: the sum (of distances: the mean) of what begins with a name."""

    label: str
    beginning: str
    colour: int
    dotted: bool | int = False


def _chart(
    name: str, title: str, rows: Rows, lines: Sequence[Line], **style: Any
) -> Picture | None:
    """Lines over iterations; None without a single one."""
    figure, axes = _figure(title)
    for line in lines:
        x, y = _points(rows, line.beginning)
        if len(x):
            style |= {"ls": ":" if line.dotted else "-", "color": COLOURS[line.colour % 7]}
            axes.plot(x, y, label=line.label or "_", lw=1.6, **style)
    if not axes.lines:
        return None
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set_xlabel("iteration")
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(fontsize=8)
    return Picture(name, title, svg(figure, axes))


def _rates(rows: Rows) -> Picture | None:
    """The learning rate and, on the right, lambda."""
    taught = _has(rows, "lambda")
    title = "Learning rate" + (" and lambda" if taught else "")
    figure, axes = _figure(title)
    axes.plot(*_points(rows, "learning_rate"), color=COLOURS[0], lw=1.6)
    if not rows:
        return None
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set_xlabel("iteration")
    if taught:
        figure.subplots_adjust(left=0.18, right=0.87)
        beside = axes.twinx()
        beside.plot(*_points(rows, "lambda"), color=COLOURS[2], lw=1.6)
        beside.set_ylim(bottom=0)
        beside.set_ylabel("lambda", color=COLOURS[2])
        beside.spines["top"].set_visible(False)
        axes.set_ylabel("learning rate")
    return Picture("rates", title, svg(figure, axes))


def _points(rows: Rows, beginning: str) -> tuple[np.ndarray, np.ndarray]:
    """Iterations and values, averaged where there are more than a chart can show."""
    combine = np.mean if beginning.startswith("distance") else np.sum
    x, y = [], []
    for row in rows:
        exact = beginning in row
        names = [beginning] if exact else [name for name in row if name.startswith(beginning)]
        if names:
            x.append(row["iteration"])
            y.append(combine([row[name] for name in names]))
    if not x:
        return np.zeros(0), np.zeros(0)
    parts = min(len(x), POINTS)
    of_x, of_y = ([np.mean(p) for p in np.array_split(values, parts)] for values in (x, y))
    return np.array(of_x), np.array(of_y)


def precision_recall(analysis: Analysis) -> Picture:
    """Precision over recall at IoU 0.5, of all classes and of each."""
    title = "Precision-recall curve, IoU 0.5"
    figure, axes = _figure(title)
    recall = np.linspace(0, 1, analysis.precision.shape[1])
    there = [i for i, row in enumerate(analysis.precision) if not np.isnan(row).all()]
    worst = sorted(there, key=lambda i: analysis.precision[i].mean())
    _of_classes(axes, recall, analysis.precision, worst, analysis.names)
    if there:
        mean = analysis.precision[there].mean(0)
        axes.plot(recall, mean, color="black", lw=2.2, label=f"all, AP50 {mean.mean():.3f}")
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    return _unit(title, "precision-recall", figure, axes)


def f1(analysis: Analysis) -> Picture:
    """F1 by score threshold, of all detections and of each class."""
    title = "F1 by score threshold, IoU 0.5"
    figure, axes = _figure(title)
    worst = sorted(range(len(analysis.names)), key=lambda i: analysis.f1[i].max())
    worst = [i for i in worst if analysis.class_thresholds[i] is not None]
    _of_classes(axes, THRESHOLDS, analysis.f1, worst, analysis.names)
    best = analysis.threshold
    label = "all" if best is None else f"all, {best.f1:.3f} at {best.score:.2f}"
    axes.plot(THRESHOLDS, analysis.f1_of_all, color="black", lw=2.2, label=label)
    if best is not None:
        axes.axvline(best.score, color="black", lw=0.9, ls=":")
    axes.set_xlabel("score threshold")
    axes.set_ylabel("F1")
    return _unit(title, "f1", figure, axes)


def _of_classes(
    axes: Axes, x: np.ndarray, values: np.ndarray, worst: Sequence[int], names: Sequence[str]
) -> None:
    """The worst classes in colours, the others in grey."""
    for place, i in reversed(list(enumerate(worst))):
        named = place < CLASSES_NAMED and len(names) > 1
        colour, label = (COLOURS[1 + place % 6], cut(names[i])) if named else ("#c4c9cf", "_")
        axes.plot(x, values[i], color=colour, label=label, lw=1.1)


def _unit(title: str, name: str, figure: Figure, axes: Axes) -> Picture:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    lines, labels = axes.get_legend_handles_labels()
    axes.legend(lines[::-1], labels[::-1], fontsize=7.5)  # the mean first, then the worst
    return Picture(name, title, svg(figure, axes))


def confusion(analysis: Analysis) -> tuple[Picture, int]:
    """The confusion matrix, and how many of its classes are shown: those with most errors."""
    matrix, nothing = analysis.confusion, len(analysis.names)
    wrong = matrix.sum(0)[:-1] + matrix.sum(1)[:-1] - 2 * np.diag(matrix)[:-1]
    most = np.argsort(-wrong, kind="stable")[:CLASSES_CONFUSED]
    chosen = [*sorted(most.tolist()), nothing]
    counts = matrix[np.ix_(chosen, chosen)]
    share = counts / np.maximum(matrix.sum(1)[chosen], 1)[:, None]
    size = len(chosen)
    side = max(3.4, 0.33 * size)
    figure = Figure(figsize=(side + 1.6, side + 1.3), layout="constrained")
    axes = figure.subplots()
    axes.pcolormesh(share, cmap="Blues", vmin=0, vmax=1, edgecolors="#eeeeee", lw=0.5)
    for row, column in np.argwhere(counts):
        dark = share[row, column] > 0.55
        axes.text(
            column + 0.5, row + 0.5, f"{counts[row, column]}", ha="center", va="center",
            fontsize=8 if counts[row, column] < 1000 else 6, color="white" if dark else "#1f2328",
        )  # fmt: skip
    labels = [*(cut(analysis.names[i]) for i in chosen[:-1]), "background"]
    axes.set_xticks(np.arange(size) + 0.5, labels, rotation=90, fontsize=8.5)
    axes.set_yticks(np.arange(size) + 0.5, labels, fontsize=8.5)
    axes.tick_params(length=0)
    axes.set_ylim(size, 0)
    axes.set_aspect("equal")
    axes.set_xlabel("found (background: missed)")
    axes.set_ylabel("truth (background: false detections)")
    return Picture("confusion", "Confusion matrix", svg(figure), wide=size > 12), size - 1


def cut(name: str) -> str:
    """A name of at most 20 characters, in a line, as matplotlib can draw it."""
    line = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    if line.startswith("_"):  # which legends leave out
        line = f"\u200b{line}"
    return line if len(line) <= 20 else f"{line[:19]}…"


def _figure(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE)
    # Places that are fixed take half the time of matplotlib's own layouts.
    figure.subplots_adjust(left=0.15, right=0.97, bottom=0.16, top=0.9)
    axes = figure.subplots()
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(labelsize=8.5)
    return figure, axes


def svg(figure: Figure, *panels: Axes) -> str:
    """A figure as SVG text, the same from the same numbers; the browser draws the letters.

    Args:
        figure: of matplotlib.
        panels: those of its axes that get a grid and lose the frame's upper and right side.
    """
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    text = io.StringIO()
    settings: Any = {"svg.hashsalt": "sssd", "svg.fonttype": "none"}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(text, format="svg", metadata={"Date": None})
    found = text.getvalue()
    return found[found.index("<svg") :]

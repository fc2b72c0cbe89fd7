"""`report.html`: all there is to see of a run, on one page that needs nothing beside it."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

from sssd.data import DetectionDataset
from sssd.engine.evaluate import in_order
from sssd.engine.files import write_text
from sssd.engine.inference import Evaluation
from sssd.engine.record import read_record
from sssd.engine.runs import Run
from sssd.methods import Method
from sssd.report import making, results
from sssd.report.examples import choose, examples
from sssd.report.maps import draw_maps
from sssd.report.page import Block, Heading, Photo, Text, html


def write_report(
    path: Path,
    run: Run,
    evaluation: Evaluation,
    *,
    train_set: DetectionDataset | None = None,
    method: Method | None = None,
) -> list[str]:
    """Writes a run's page.

    A section that cannot be drawn says so in its place, and the others are there.

    Args:
        path: of the file.
        run: what the page is about; its folder has metrics and settings.
        evaluation: of its detector.
        train_set: what it was trained on, if that has been read.
        method: whose maps are drawn, if it is at hand.

    Returns:
        What could not be drawn, and why: a line each.

    Raises:
        RunError: the file cannot be written.
    """
    folder = run.folder
    sets = {"evaluation": evaluation.dataset}
    if train_set is not None:
        sets = {"training": train_set, **sets}
    sections: dict[str, Callable[[], Sequence[Block]]] = {
        "Numbers": lambda: results.numbers(evaluation),
        "Classes": lambda: results.classes(evaluation, train_set),
        "Thresholds": lambda: results.thresholds(evaluation),
        "Confusion matrix": lambda: results.confusion(evaluation),
        "Training": lambda: making.training(folder),
        "Images": lambda: examples(evaluation),
        "Maps": lambda: maps(method, evaluation),
        "Data": lambda: making.data(sets),
        "Settings": lambda: making.settings(folder),
        "Time and memory": lambda: making.cost(folder),
        "Next steps": lambda: making.commands(folder, run.config),
    }
    blocks, failed = _head(run, evaluation), []
    for name, make in sections.items():
        try:
            with matplotlib.rc_context({"text.parse_math": False}):  # names are text
                found = make()
        except Exception as error:  # whatever it is, the numbers and the rest are worth more
            why = f"{type(error).__name__}: {error}"
            failed.append(f"{name}: {why}")
            found = [Text(f"**Not available: {why}**")]
        if found:
            blocks += [Heading(2, name), *found]
    text = html(blocks, f"Run {folder.resolve().name}")
    write_text(path, text)
    return failed


def _head(run: Run, evaluation: Evaluation) -> list[Block]:
    dataset, record = evaluation.dataset, read_record(run.folder)
    what = f"Recipe {record.get('recipe')}: {record['method']['name']} trained {run.config.name}"
    return [
        Heading(1, f"Run {run.folder.resolve().name}"),
        Text(
            f"{what} on {run.config.backbone} to find {len(run.classes)} classes; evaluated on "
            f"{len(dataset):,} images of {Path(dataset.source).name} by {evaluation.engine}."
        ),
    ]


def maps(method: Method | None, evaluation: Evaluation) -> list[Block]:
    """K, K_e and their distance, of the worst, a typical and a good image."""
    if method is None:
        return []
    order = in_order(evaluation.dataset.image_ids)
    places = [places[0] for places in choose(evaluation.analysis).values() if places]
    figure = draw_maps(method, evaluation.dataset, [order[place] for place in places])
    if figure is None:
        return []
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    title = (
        "Root mean square of K and K_e over the channels of each cell, their difference and "
        "distance"
    )
    return [
        Text(
            "K_e, made from K and the labels, is the target of the student's maps K. The finest "
            "levels, for the first image of each kind above."
        ),
        Photo(title, file.getvalue(), "png", wide=True),
    ]

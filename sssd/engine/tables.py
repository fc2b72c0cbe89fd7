"""What an evaluation found, laid out for a terminal in percent, as papers print it."""

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from sssd.engine.analysis import ClassNumbers
from sssd.engine.evaluate import METRICS

CLASSES_SHOWN = 25


def table(numbers: Mapping[str, float], title: str = "COCO evaluation") -> Table:
    """The 12 numbers.

    Args:
        numbers: as `evaluate_detections` returns them.
        title: heading of the table.
    """
    result = _table(title, ["number"], ["percent"], ["meaning"])
    for name, meaning in METRICS.items():
        value = numbers[name]
        result.add_row(name, "no objects" if value < 0 else f"{100 * value:.2f}", meaning)
    return result


def class_table(classes: Sequence[ClassNumbers]) -> Table:
    """The first of some classes, by default the worst: AP, and how many objects there are."""
    shown = classes[:CLASSES_SHOWN]
    title = "AP by class, lowest first"
    if len(shown) < len(classes):
        title = f"AP by class, the lowest {len(shown)} of {len(classes)}; --report has all"
    names = ["objects", "images", "AP", "AP50", "APs", "APm", "APl", "AR100"]
    result = _table(title, ["class"], names)
    for row in shown:
        values = (row.AP, row.AP50, row.APs, row.APm, row.APl, row.AR)
        cells = ["-" if value is None else f"{100 * value:.2f}" for value in values]
        result.add_row(Text(row.name), str(row.objects), str(row.images), *cells)
    return result


def difference(
    first: Mapping[str, float], second: Mapping[str, float], names: Sequence[str], title: str
) -> Table:
    """The numbers of two runs on the same data, and the second's less the first's."""
    result = _table(title, ["number"], [*names, "difference"])
    for name in (name for name in first if name in second):
        pair = first[name], second[name]
        cells = ["-"] * 3
        if min(pair) >= 0:
            cells = [*(f"{100 * value:.2f}" for value in pair), f"{100 * (pair[1] - pair[0]):+.2f}"]
        result.add_row(name, *cells)
    return result


def _table(
    title: str, left: Sequence[str], right: Sequence[str], words: Sequence[str] = ()
) -> Table:
    result = Table(title=Text(title, "table.title"))  # no markup: a file may have any name
    for name in left:
        result.add_column(Text(name))
    for name in right:
        result.add_column(Text(name), justify="right")
    for name in words:
        result.add_column(Text(name))
    return result

"""The table and the plot of an experiment."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from sssd.experiments.runner import Row

SHOWN = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def by_variant(rows: Sequence[Row]) -> dict[str, dict[int, Row]]:
    """Rows by variant, then by seed, both in the order in which they were run."""
    table: dict[str, dict[int, Row]] = {}
    for row in rows:
        table.setdefault(row["variant"], {})[int(row["seed"])] = row
    return table


def markdown(rows: Sequence[Row], order: Sequence[str]) -> str:
    """Mean and sample standard deviation over seeds; and the gain in AP over the first variant.

    The gain is the mean of the differences between runs of the same seed, with its standard error.
    AP is in points (0 to 100). What COCO leaves undefined is shown as "-".

    Args:
        rows: of results.csv.
        order: names of variants; the first is what the others are compared with.
    """
    table = by_variant(rows)
    names = [name for name in order if name in table]
    first = names[0] if names else ""
    head = ["variant", "seeds", "iterations", "seconds", *SHOWN, f"AP over {first}"]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |"]
    for name in names:
        runs = table[name]
        seconds = statistics.mean(float(row["seconds"]) for row in runs.values())
        cells = [name, str(len(runs)), next(iter(runs.values()))["iterations"], f"{seconds:.0f}"]
        cells += [_spread([float(row[metric]) for row in runs.values()]) for metric in SHOWN]
        shared = [seed for seed in runs if seed in table[first]]
        gains = [100 * (float(runs[s]["AP"]) - float(table[first][s]["AP"])) for s in shared]
        cells.append("" if name == first else _gain(gains))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(rows: Sequence[Row], order: Sequence[str], title: str, path: Path) -> None:
    """Draws each run's AP as a dot and each variant's mean as a line."""
    from matplotlib.figure import Figure  # it takes seconds, which --help need not

    table = by_variant(rows)
    names = [name for name in order if name in table]
    figure = Figure(figsize=(7.5, 1.2 + 0.34 * len(names)))
    axes = figure.subplots()
    for place, name in enumerate(names):
        scores = [100 * float(row["AP"]) for row in table[name].values()]
        mean = statistics.mean(scores)
        axes.plot(scores, [place] * len(scores), "o", color="C0", alpha=0.55, markeredgewidth=0)
        axes.plot([mean, mean], [place - 0.32, place + 0.32], color="C3", lw=2)
        if place == 0:
            axes.axvline(mean, color="grey", lw=0.8, ls=":", zorder=0)
    axes.set_yticks(range(len(names)), names, parse_math=False)  # they may hold dollar signs
    axes.invert_yaxis()
    axes.set_xlabel("AP (dots: runs; red: mean)")
    axes.set_title(title, loc="left", fontsize=10, parse_math=False)
    axes.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def _spread(values: Sequence[float]) -> str:
    if min(values) < 0:
        return "-"
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def _gain(gains: Sequence[float]) -> str:
    if not gains:
        return "-"
    mean = f"{statistics.mean(gains):+.1f}"
    if len(gains) < 2:
        return mean
    return f"{mean} ± {statistics.stdev(gains) / len(gains) ** 0.5:.1f}"

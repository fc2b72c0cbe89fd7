"""The study's verdicts as one table, printed, and one picture, from the results that are kept.

`python -m tools.study` says what belongs into docs/results.md.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sssd.compare.plots import gains
from sssd.compare.statistics import FIRST_LOOK

DOCS = Path(__file__).resolve().parents[1] / "docs"
PICTURE = DOCS / "images" / "study-gains.svg"
ASKED = {
    ("deeppcb-sssd-2", "sssd"): "SSSD gains over plain: small defects, 4.8 epochs",
    ("deeppcb-long", "sssd"): "the same: 14.4 epochs",
    ("voc07-sssd", "sssd"): "the same: VOC 2007, 3.3 epochs",
    ("deeppcb-retinanet", "sssd"): "the same: RetinaNet",
    ("deeppcb-fasterrcnn", "sssd"): "the same: Faster R-CNN",
    ("deeppcb-lgd", "lgd"): "LGD gains over plain",
    ("deeppcb-lgd", "sssd+lgd-parts"): "SSSD gains with LGD's fusion and adapter",
    ("deeppcb-labelenc", "labelenc"): "LabelEnc gains over plain (step 1's time is not counted)",
    ("deeppcb-lambda-2", "sssd"): "the distance adds to the second pass: lambda 1",
    ("deeppcb-lambda-2", "lambda 10"): "the same: lambda 10",
    ("deeppcb-lambda-2", "lambda 30"): "the same: lambda 30",
    ("deeppcb-lambda-2", "lambda 100"): "the same: lambda 100",
    ("deeppcb-stepwise", "sssd"): "a lambda that rises is better than a fixed one",
    ("deeppcb-lgd-lambda", "stepwise"): "LGD gains with SSSD's fusion and adapter, lambda rising",
    ("deeppcb-lgd-lambda", "lambda 0"): "the same: lambda 0, which is SSSD's lambda 0",
    ("deeppcb-lgd-lambda", "lambda 10"): "the same: lambda 10, rising",
    ("deeppcb-lgd-lambda-2", "lgd-stepwise"): "the same, with LGD's own parts: lambda rising",
    ("deeppcb-lgd-lambda-2", "lambda 0"): "the same: lambda 0",
    ("deeppcb-lgd-lambda-2", "lambda 10"): "the same: lambda 10, fixed",
    ("deeppcb-why", "no distance"): "*ours:* the gain is there without the distance",
    ("deeppcb-why", "no labels"): "*ours:* and without the labels",
    ("deeppcb-every4", "every 4"): "*ours:* cheaper: K_e in every 4th step gains over plain",
    ("deeppcb-every4", "every 2, no distance"): "*ours:* K_e in every 2nd, without the distance",
    ("deeppcb-sides", "sides"): "*ours:* a teacher 26 AP better has better students",
}
"""What each arm of each plan tells of, in the order of the table; the paper's claims first."""
ENDED = ("deeppcb-sssd-ended",)  # by a fault, before there was a pair of runs
THRESHOLD = 0.3  # of every plan


def results() -> dict[str, Any]:
    """What `sssd.compare` left of each plan, by its name."""
    paths = sorted((DOCS / "results" / "study").glob("*.results.json"))
    told = {p.name.removesuffix(".results.json"): json.loads(p.read_text()) for p in paths}
    return {name: value for name, value in told.items() if name not in ENDED}


def verdicts(told: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Plan, what it asks, and the verdicts of an arm by what was equal."""
    for (name, arm), asked in ASKED.items():
        if name in told:
            rows = {row["equal"]: row for row in told[name]["verdicts"] if row["arm"] == arm}
            yield name, asked, rows


def table(told: dict[str, Any]) -> str:
    """In Markdown."""
    lines = [
        "| claim of the paper, or question of ours | plan | seeds | AP gained at equal iterations "
        "| at equal time | verdict | machine-hours |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    shown = set()
    for name, asked, rows in verdicts(told):
        both = [rows[equal] for equal in ("iterations", "time") if equal in rows]
        seeds = " and ".join(dict.fromkeys(str(row["seeds"]) for row in both if row["seeds"]))
        cells = [_gain(rows.get(equal)) for equal in ("iterations", "time")]
        hours = "" if name in shown else f"{told[name]['machine_hours']:.1f}"
        shown.add(name)
        plan = f"{name}: {both[0]['arm']} over {both[0]['over']}"
        lines.append(f"| {' | '.join([asked, plan, seeds, *cells, _verdict(both), hours])} |")
    return "\n".join(lines) + "\n"


def picture(told: dict[str, Any]) -> str | None:
    """Every gain with its seeds and interval."""
    rows = [
        {**row, "arm": f"{name}: {row['arm']} over {row['over']}"}
        for name, _, found in verdicts(told)
        for row in sorted(found.values(), key=lambda row: row["equal"])
        if row["seeds"] >= FIRST_LOOK
    ]
    return gains(rows, THRESHOLD, "the baseline")


def _verdict(rows: list[dict[str, Any]]) -> str:
    if min(row["seeds"] for row in rows) < FIRST_LOOK:
        return "none yet"
    names = {
        row["equal"]: row["verdict"]
        if row["verdict"] == "INCONCLUSIVE"
        else f"**{row['verdict']}**"
        for row in rows
    }
    if len(set(names.values())) == 1:
        return names.popitem()[1]
    return ", ".join(f"{name} at equal {equal}" for equal, name in names.items())


def _gain(row: dict[str, Any] | None) -> str:
    if row is None or row["gain"] is None:
        return ""
    low, high = row["interval"]
    interval = "" if low is None else f" [{low:.2f}, {high:.2f}]"
    return f"{row['gain']:+.2f}{interval}"


def main() -> None:
    """Prints the table and draws the picture."""
    told = results()
    print(table(told), end="")
    drawn = picture(told)
    assert drawn is not None
    PICTURE.write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()

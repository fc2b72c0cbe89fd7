"""The sections of a report on how a run was made, and how to go on."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sssd.commands import to_resume
from sssd.data import DetectionDataset
from sssd.detectors import DetectorConfig
from sssd.detectors.start import OF_THE_NETWORK
from sssd.engine.log import read_metrics
from sssd.engine.record import by_flag, read_record, read_settings
from sssd.engine.state import checkpoints
from sssd.recipes import RECIPES, Config, stretched
from sssd.report import charts
from sssd.report.page import Block, Code, Grid, Numbers, Table, Text
from sssd.report.results import percent


def training(folder: Path) -> list[Block]:
    """Curves of the training."""
    rows = read_metrics(folder)
    scores = [row for row in rows if "AP" in row]
    blocks: list[Block] = []
    if len(scores) > 1:
        best = max(scores, key=lambda row: row["AP"])
        blocks.append(Text(f"Best AP {percent(best['AP'])}, at iteration {best['iteration']:,}."))
    pictures = charts.curves(rows)
    return [*blocks, Grid(pictures)] if pictures else []


def data(sets: Mapping[str, DetectionDataset]) -> list[Block]:
    """What some data sets hold, by what they were for."""
    head = ["", "images", "empty", "objects", "crowds", "small", "medium", "large", "an image",
            "median image"]  # fmt: skip
    rows = [[name, *_describe(dataset)] for name, dataset in sets.items()]
    places = [[name, dataset.source] for name, dataset in sets.items()]
    return [Table(head, rows), Table(["", "files"], places, words=True)]


def _describe(dataset: DetectionDataset) -> list[str]:
    boxes = dataset.boxes
    count = int((~boxes.crowd).sum())
    width, height = np.median(dataset.sizes, axis=0)
    empty = len(dataset) - boxes.count_images()
    return [
        f"{len(dataset):,}", f"{empty:,}", f"{count:,}", f"{int(boxes.crowd.sum()):,}",
        *(f"{100 * size / max(count, 1):.0f} %" for size in boxes.count_sizes().values()),
        f"{count / len(dataset):.1f}", f"{width:.0f} x {height:.0f}",
    ]  # fmt: skip


def settings(folder: Path) -> list[Block]:
    """The settings, first those that differ from the recipe."""
    record, config = read_record(folder), read_settings(folder, Config)
    own = _texts(by_flag(config))
    recipe = str(record.get("recipe"))
    blocks: list[Block] = []
    if recipe in RECIPES:
        plain = RECIPES[recipe]()
        scaled = _texts(by_flag(stretched(plain, config.schedule.iterations)))
        scaled["--schedule.iterations"] = str(plain.schedule.iterations)
        changed = {f: v for f, v in own.items() if scaled.get(f) != v}
        rows = [[flag, value, scaled.get(flag, "-")] for flag, value in changed.items()]
        head = ["setting", "this run", f"recipe {recipe}"]
        blocks += [Text(f"Differences from the recipe {recipe} at this length:")] if rows else []
        blocks.append(
            Table(head, rows, words=True)
            if rows
            else Text(f"All settings are those of the recipe {recipe}.")
        )
    for change in record.get("history", []):
        words = [f"{flag} {now} (was {was})" for flag, (was, now) in change["changed"].items()]
        blocks.append(Text(f"Resumed after iteration {change['iteration']:,}: {'; '.join(words)}"))
    blocks += [Text("All settings:"), Table(["setting", "value"], list(own.items()), words=True)]
    versions = ", ".join(f"{name} {v}" for name, v in record.get("versions", {}).items())
    return [*blocks, Text(f"Versions: {versions}.")]


def _texts(flags: Mapping[str, Any]) -> dict[str, str]:
    return {f: str(v) for f, v in flags.items() if f not in ("--out", "--resume")}


def cost(folder: Path) -> list[Block]:
    """What of time and memory the metrics tell."""
    rows = [row for row in read_metrics(folder) if "images_per_second" in row]
    if not rows:
        return []
    config = read_settings(folder, Config)
    before = [0, *(row["iteration"] for row in rows)]
    seconds = sum(
        (row["iteration"] - last) * config.engine.batch_size / row["images_per_second"]
        for last, row in zip(before, rows, strict=False)
    )
    speed = np.median([row["images_per_second"] for row in rows])
    count = f"{rows[-1]['iteration']:,}"
    found = [
        ("iterations", count, f"of {config.engine.batch_size} images"),
        ("training steps", _duration(seconds), "without evaluations"),
        ("speed", f"{speed:.3g}", "images per second, median"),
    ]
    if memory := [row["memory_gb"] for row in rows if "memory_gb" in row]:
        found.append(("memory", f"{max(memory):.1f} GB", "peak memory"))
    return [Numbers(found)]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def commands(folder: Path, detector: DetectorConfig) -> list[Block]:
    """The commands to go on with."""
    run = shlex.quote(str(folder))
    usual = RECIPES["small"]().detector
    network = "".join(
        f"--detector.{name.replace('_', '-')} {getattr(detector, name)} "
        for name in OF_THE_NETWORK
        if getattr(detector, name) != getattr(usual, name)
    )
    lines = {
        "detect objects in images, as pictures and json": (
            f"predict {run} IMAGES --out found --json found/all.json"
        ),
        "evaluate on other data, with a page like this": (
            f"evaluate {run} --data.val DATA --report other.html"
        ),
        "export to a file for other programs": f"export {run} --out detector.onnx",
        "train longer": f"train {to_resume(folder)} --schedule.iterations MORE",
        "start a new run from its weights": (
            f"train small {network}--detector.start-from {run} --data.train DATA --data.val DATA"
        ),
    }
    if not checkpoints(folder):
        del lines["train longer"]
    return [Code("\n".join(f"# {why}\npython -m sssd.{line}" for why, line in lines.items()))]

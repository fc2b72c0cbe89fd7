"""Memory of loader workers over epochs of many annotations, and whether loading keeps up.

    python bench/data_loader.py                       # 100,000 annotations, 3 epochs
    python bench/data_loader.py --images-of coco.json # loading beside a training step as well

The memory that a worker has for itself (private pages) is compared with that of the same data as
lists of dicts, which are copied page by page into every worker as reference counts are touched.

Loading keeps up where the loader alone gives more images a second than the model alone takes: a
training step then hardly waits for its batch.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from sssd.data import read_coco, training_loader
from sssd.data.dataset import DetectionDataset
from sssd.data.settings import DataConfig
from sssd.engine.step import TrainingStep
from sssd.fitting import prepare
from sssd.recipes import RECIPES

MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    annotations: int = 100_000
    """Boxes in the synthetic data set, five an image."""

    epochs: int = 3
    """Passes over the data."""

    workers: int = 2
    """Worker processes."""

    images_of: Path | None = None
    """COCO json of real images: loading is measured beside a training step on them."""

    recipe: str = "small"
    """Whose detector, method, batch and augmentation train on them."""

    steps: int = 12
    """Training steps that are timed for each number of workers."""


class ListOfDicts(Dataset):
    """The same annotations as json gives them: what the flat arrays are for."""

    def __init__(self, path: Path, images: Path) -> None:
        document = json.loads(path.read_text())
        self.images = images
        self.records = document["images"]
        self.annotations: list[list[dict]] = [[] for _ in self.records]
        for annotation in document["annotations"]:
            self.annotations[annotation["image_id"] - 1].append(annotation)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[np.ndarray, list]:
        image = np.asarray(Image.open(self.images / self.records[index]["file_name"]))
        return image, [record["bbox"] for record in self.annotations[index]]


def write_data(folder: Path, annotations: int) -> Path:
    """Write a COCO json of many boxes; all its images are one small file."""
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(folder / "image.png")
    count = annotations // 5
    document = {
        "images": [
            {"id": key, "file_name": "image.png", "width": 16, "height": 16}
            for key in range(1, count + 1)
        ],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {
                "id": key,
                "image_id": 1 + key % count,
                "category_id": 1,
                "bbox": [1, 2, 3 + key % 7, 4],
            }
            for key in range(1, annotations + 1)
        ],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(document))
    return path


def private_memory() -> float:
    """Give the largest private memory of the worker processes, in MiB."""
    totals = []
    for worker in multiprocessing.active_children():
        lines = Path(f"/proc/{worker.pid}/smaps_rollup").read_text().splitlines()
        totals.append(sum(int(line.split()[1]) for line in lines if line.startswith("Private_")))
    return max(totals) * 1024 / MIB


def flat_arrays(dataset: DetectionDataset, settings: Settings) -> list[float]:
    """Give a worker's memory after its first batches and after every epoch."""
    batches = training_loader(dataset, batch_size=16, seed=0, workers=settings.workers)
    per_epoch = len(dataset) // 16
    memory = []
    for count in [8] + [per_epoch] * settings.epochs:
        for _ in islice(batches, count):
            pass
        memory.append(private_memory())
    return memory


def list_of_dicts(dataset: ListOfDicts, settings: Settings) -> list[float]:
    """Give the same for lists of dicts, in persistent workers."""
    loader = DataLoader(
        dataset,
        batch_size=16,
        shuffle=True,
        num_workers=settings.workers,
        collate_fn=len,
        persistent_workers=True,
    )
    memory = []
    for epoch in range(settings.epochs):
        for step, _ in enumerate(loader):
            if epoch == 0 and step == 8:
                memory.append(private_memory())
        memory.append(private_memory())
    return memory


class Training:
    """A recipe's training step on real images, and the stream of its batches."""

    def __init__(self, settings: Settings) -> None:
        data = DataConfig(train=settings.images_of, val=settings.images_of)
        self.config = dataclasses.replace(RECIPES[settings.recipe](), data=data)
        method, self.dataset, *_ = prepare(self.config)
        self.train = TrainingStep(method, self.config.engine, self.config.schedule)
        self.device = self.train.device

    def batches(self, workers: int) -> Iterator[Any]:
        """Start the stream; workers are up and busy when it returns."""
        size, transform = self.config.engine.batch_size, self.config.data.transform()
        stream = training_loader(self.dataset, size, 0, workers, transform=transform)
        for _ in islice(stream, 2 + 2 * workers):
            pass
        return stream

    def step(self, batch: Any) -> None:
        """A training step, after distillation has started."""
        self.train(repeat(batch), self.config.schedule.iterations - 1)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def beside_training(training: Training, settings: Settings) -> Table:
    """Time loading, training, and loading while training."""
    images = training.config.engine.batch_size
    held = list(islice(training.batches(0), 2 + settings.steps))
    for batch in held[:2]:
        training.step(batch)
    start = time.perf_counter()
    for batch in held[2:]:
        training.step(batch)
    model = images * settings.steps / (time.perf_counter() - start)
    title = f"{settings.recipe}: the model alone takes {model:.1f} images/s"
    table = Table(title=f"{title}, on {training.device} with {torch.get_num_threads()} threads")
    for column in ("workers", "loader alone, images/s", "training, images/s", "waits for a batch"):
        table.add_column(column, justify="right")
    for workers in range(settings.workers + 1):
        stream = training.batches(workers)
        start = time.perf_counter()
        for _ in islice(stream, 4 * settings.steps):
            pass
        loader = 4 * images * settings.steps / (time.perf_counter() - start)
        waited = 0.0
        begin = time.perf_counter()
        for _ in range(settings.steps):
            start = time.perf_counter()
            batch = next(stream)
            waited += time.perf_counter() - start
            training.step(batch)
        total = time.perf_counter() - begin
        table.add_row(
            str(workers),
            f"{loader:.1f}",
            f"{images * settings.steps / total:.1f}",
            f"{100 * waited / total:.1f} % of a step",
        )
    return table


def main(settings: Settings) -> None:
    """Measure and print."""
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_data(folder, settings.annotations)
        rows = {
            "flat arrays": flat_arrays(read_coco(path, folder), settings),
            "lists of dicts": list_of_dicts(ListOfDicts(path, folder), settings),
        }
    table = Table(title=f"private memory of a worker, MiB, {settings.annotations:,} annotations")
    table.add_column("data as")
    for column in ["8 batches", *(f"epoch {number + 1}" for number in range(settings.epochs))]:
        table.add_column(column, justify="right")
    for kind, memory in rows.items():
        table.add_row(kind, *(f"{value:.1f}" for value in memory))
    console.print(table)
    if settings.images_of is not None:
        console.print(beside_training(Training(settings), settings))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))

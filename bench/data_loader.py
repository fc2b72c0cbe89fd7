"""Memory of loader workers over epochs of many annotations, and images a second.

    python bench/data_loader.py                       # 100,000 annotations, 3 epochs
    python bench/data_loader.py --images-of coco.json # speed on real images as well

The memory that a worker has for itself (private pages) is compared with that of the same data as
lists of dicts, which are copied page by page into every worker as reference counts are touched.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from sssd.data import read_coco, training_loader
from sssd.data.dataset import DetectionDataset

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
    """COCO json of real images to measure speed on."""


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


def speed(dataset: DetectionDataset, workers: int, batches: int = 30) -> float:
    """Give the images a second of the training loader."""
    stream = training_loader(dataset, batch_size=8, seed=0, workers=workers)
    for _ in islice(stream, 4):
        pass
    start = time.perf_counter()
    for _ in islice(stream, batches):
        pass
    return 8 * batches / (time.perf_counter() - start)


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
        dataset = read_coco(settings.images_of)
        for workers in range(settings.workers + 1):
            console.print(f"{workers} workers: {speed(dataset, workers):.0f} images/s")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))

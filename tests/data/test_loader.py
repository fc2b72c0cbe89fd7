"""The order of the data, and what neither workers nor processes nor a restart may change."""

import json
from itertools import chain, islice

import numpy as np
import pytest
import torch
from PIL import Image

from sssd.data import (
    DataError,
    DetectionDataset,
    evaluation_loader,
    read_coco,
    training_loader,
    training_transform,
)

LENGTH = 7


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for number in range(LENGTH):
        pixels = random.integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    document = {
        "images": [
            {"id": number, "file_name": f"{number}.png", "width": 50, "height": 40}
            for number in range(LENGTH)
        ],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": 1 + number, "image_id": number, "category_id": 1, "bbox": [5, 5, 20, 30]}
            for number in range(LENGTH - 1)
        ],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(document))
    return read_coco(path, folder)


TRANSFORM = training_transform(flip=0.5, photometric=True, scale=1.5)


def stream(dataset: DetectionDataset, count: int, **arguments: object) -> list[tuple]:
    """Give everything in the first batches, in a form that can be compared."""
    settings = {"batch_size": 3, "seed": 5, "transform": TRANSFORM} | arguments
    return [
        (target["image_id"], image.numpy().tobytes(), target["boxes"].tolist())
        for images, targets in islice(training_loader(dataset, **settings), count)
        for image, target in zip(images, targets, strict=True)
    ]


def test_batches(dataset: DetectionDataset) -> None:
    images, targets = next(training_loader(dataset, batch_size=4, seed=0))
    assert len(images) == len(targets) == 4
    for image, target in zip(images, targets, strict=True):
        assert type(image) is torch.Tensor
        assert image.dtype == torch.float32
        assert image.shape == (3, 40, 50)
        assert 0 <= image.min() < 0.1
        assert 0.9 < image.max() <= 1
        assert type(target["boxes"]) is torch.Tensor
        assert target["boxes"].dtype == torch.float32
        assert target["labels"].dtype == torch.int64
        assert type(target["image_id"]) is int


def test_every_epoch_holds_every_image_once(dataset: DetectionDataset) -> None:
    ids = [key for key, _, _ in stream(dataset, LENGTH)]  # three epochs
    epochs = [ids[start : start + LENGTH] for start in range(0, 3 * LENGTH, LENGTH)]
    assert all(sorted(epoch) == list(range(LENGTH)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_augmentation_differs_between_epochs(dataset: DetectionDataset) -> None:
    one = dataset.subset([0])
    seen = {image for _, image, _ in stream(one, 2)}  # six epochs of a single image
    assert len(seen) == 6


def test_seeds_differ(dataset: DetectionDataset) -> None:
    assert stream(dataset, 3, seed=5) == stream(dataset, 3, seed=5)
    assert stream(dataset, 3, seed=5) != stream(dataset, 3, seed=6)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers: int, dataset: DetectionDataset) -> None:
    assert stream(dataset, 6, workers=workers) == stream(dataset, 6)


@pytest.mark.parametrize("start", [1, 2, 5])
def test_starting_later_skips_batches(start: int, dataset: DetectionDataset) -> None:
    assert stream(dataset, 6 - start, start=start) == stream(dataset, 6)[3 * start :]


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_start_later_together(rank: int, dataset: DetectionDataset) -> None:
    share = {"batch_size": 2, "rank": rank, "world_size": 2}
    assert stream(dataset, 2, start=3, **share) == stream(dataset, 5, **share)[2 * 3 :]


def test_seeking_is_immediate(dataset: DetectionDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    original = DetectionDataset.__getitem__
    monkeypatch.setattr(
        DetectionDataset,
        "__getitem__",
        lambda self, row: decoded.append(row) or original(self, row),
    )
    next(training_loader(dataset, batch_size=2, seed=0, start=10**12))
    assert len(decoded) == 2


def test_processes_share_one_stream(dataset: DetectionDataset) -> None:
    together = stream(dataset, 4, batch_size=4)
    parts = [stream(dataset, 4, batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    interleaved = []
    for start in range(0, 8, 2):
        interleaved += parts[0][start : start + 2] + parts[1][start : start + 2]
    assert interleaved == together


def test_the_global_generator_is_left_alone(dataset: DetectionDataset) -> None:
    """Else a resumed run, whose loader starts again, would draw other numbers."""
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    batches = training_loader(dataset, batch_size=2, seed=0, workers=0, transform=TRANSFORM)
    next(batches)
    list(evaluation_loader(dataset, batch_size=2))
    next(training_loader(dataset, batch_size=2, seed=0, workers=1))
    assert torch.equal(torch.rand(3), expected)


def test_a_batch_larger_than_the_data(dataset: DetectionDataset) -> None:
    images, _ = next(training_loader(dataset, batch_size=2 * LENGTH + 1, seed=0))
    assert len(images) == 2 * LENGTH + 1


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_every_image_once(
    world_size: int, workers: int, dataset: DetectionDataset
) -> None:
    ids = [
        [
            target["image_id"]
            for _, targets in evaluation_loader(dataset, 2, workers, rank, world_size)
            for target in targets
        ]
        for rank in range(world_size)
    ]
    assert sorted(chain.from_iterable(ids)) == list(range(LENGTH))
    assert ids[0] == list(range(0, LENGTH, world_size))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_worker_names_the_file_it_failed_on(workers: int, dataset: DetectionDataset) -> None:
    broken = dataset.subset(range(LENGTH))
    broken.image_root = "nowhere"
    with pytest.raises(DataError, match=r"nowhere/\d\.png: the image file does not exist"):
        next(training_loader(broken, batch_size=2, seed=0, workers=workers))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1 and start at least 0: 0, 0"),
        ({"start": -1}, "batch_size must be at least 1 and start at least 0: 3, -1"),
        ({"rank": 2, "world_size": 2}, "rank 2, world_size 2"),
    ],
)
def test_wrong_numbers(arguments: dict, message: str, dataset: DetectionDataset) -> None:
    with pytest.raises(ValueError, match=message):
        stream(dataset, 1, **arguments)


def test_no_images(dataset: DetectionDataset) -> None:
    with pytest.raises(ValueError, match="has no images to train on"):
        stream(dataset.subset([]), 1)

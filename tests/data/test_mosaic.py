"""Mosaics keep boxes on their objects, whoever draws them, and end before the training does."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from sssd.data import DetectionDataset, read_coco, training_loader, training_transform
from sssd.data.build import DataConfig
from sssd.data.mosaic import MosaicTransform, mosaic

SIZES = [(60, 80), (90, 40), (30, 120), (64, 64)]


def sample(number: int, height: int, width: int) -> tuple[tv_tensors.Image, dict]:
    """A black image with a box of each of the brightnesses 100 and 200, and one of no size."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    boxes = [[2, 3, width // 2, height // 3], [width // 2 + 1, height // 2, width, height - 1]]
    for brightness, (left, top, right, bottom) in zip((100, 200), boxes, strict=True):
        image[:, top:bottom, left:right] = brightness
    return tv_tensors.Image(image), {
        "boxes": tv_tensors.BoundingBoxes(
            torch.tensor([*boxes, [5, 5, 5, 9]], dtype=torch.float32),
            format="XYXY",
            canvas_size=(height, width),
        ),
        "labels": torch.tensor([10, 20, 30]) + number,
        "image_id": number,
    }


@pytest.mark.parametrize("size", [(1, 80), (60, 1), (1, 1), (2, 2)])
def test_thin_images_have_no_quarters_and_may_be_one(size: tuple[int, int]) -> None:
    thin = sample(0, *size)
    rest = [sample(number, *SIZES[number]) for number in (1, 2, 3)]
    image, target = mosaic([thin, *rest])
    assert (image is thin[0], target is thin[1]) == (min(size) == 1,) * 2
    assert mosaic([rest[0], thin, *rest[1:]])[0].shape == rest[0][0].shape


def test_boxes_lie_on_their_objects() -> None:
    samples = [sample(number, *size) for number, size in enumerate(SIZES)]
    seen: set[int] = set()
    rest: list[float] = []
    for seed in range(60):
        torch.manual_seed(seed)
        image, target = mosaic(samples)
        assert type(image) is tv_tensors.Image
        assert (image.shape, target["image_id"]) == ((3, 60, 80), 0)
        assert target["boxes"].canvas_size == (60, 80)
        assert len(target["boxes"]) == len(target["labels"])
        bright = torch.zeros(60, 80, dtype=torch.bool)
        for box, label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
            left, top, right, bottom = (round(value) for value in box)
            assert 0 <= left <= right <= 80
            assert 0 <= top <= bottom <= 60
            bright[max(0, top - 2) : bottom + 2, max(0, left - 2) : right + 2] = True
            inner = image[0, top + 2 : bottom - 2, left + 2 : right - 2].float()
            if inner.numel():
                assert abs(float(inner.mean()) - 10 * (label - label % 10)) < 15, label
            seen.add(label)
        rest.append(float((image[0] > 50)[~bright].sum()) / image[0].numel())
    # What no box is on is dark, or the rest of an object of which less than a tenth is seen.
    assert max(rest) < 0.1
    assert sum(rest) / len(rest) < 0.01
    assert seen == {10 * kind + number for kind in (1, 2) for number in range(4)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    folder = tmp_path_factory.mktemp("mosaic")
    random, images, annotations = np.random.default_rng(0), [], []
    for number in range(5):
        pixels = random.integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 50, "height": 40})
        annotations += [
            {"id": 2 * number + crowd + 1, "image_id": number, "category_id": 1, "iscrowd": crowd,
             "bbox": [5, 5, 20 + crowd, 30]}
            for crowd in (0, 1)
        ]  # fmt: skip
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1}]}
    Path(folder / "all.json").write_text(json.dumps(document))
    return read_coco(folder / "all.json", folder)


def stream(dataset: DetectionDataset, transform: object, count: int, **more: int) -> list[tuple]:
    loader = training_loader(dataset, 2, seed=3, transform=transform, **more)  # type: ignore[arg-type]
    return [
        (target["image_id"], image.numpy().tobytes(), target["boxes"].tolist())
        for images, targets in islice(loader, count)
        for image, target in zip(images, targets, strict=True)
    ]


def test_a_stream_of_mosaics_is_the_same_wherever_it_begins_and_ends_plain(
    dataset: DetectionDataset,
) -> None:
    plain = training_transform(flip=0.5, scale=1.5)
    mosaics = MosaicTransform(plain, 1.0, until=6)
    whole = stream(dataset, mosaics, 8)
    assert stream(dataset, mosaics, 3, start=5) == whole[10:]
    assert stream(dataset, mosaics, 4, workers=1) == whole[:8]
    first, second = (stream(dataset, mosaics, 2, rank=r, world_size=2) for r in range(2))
    together = [s for pair in range(2) for part in (first, second) for s in part[2 * pair :][:2]]
    assert together == whole[:8]
    unmixed = stream(dataset, plain, 8)
    assert [a == b for a, b in zip(whole, unmixed, strict=True)] == [False] * 12 + [True] * 4
    assert max(len(boxes) for _, _, boxes in whole) <= 4, "crowds are no targets"
    half = stream(dataset, MosaicTransform(plain, 0.5, until=99), 20)
    same = sum(len(boxes) <= 1 for _, _, boxes in half)
    assert 5 < same < 35


def test_off_unless_asked_for_and_closed_in_the_last_tenth() -> None:
    assert not isinstance(DataConfig().transform(10), MosaicTransform)
    asked = DataConfig(mosaic=0.5).transform(100)
    assert isinstance(asked, MosaicTransform)
    assert (asked.probability, asked.until) == (0.5, 90)

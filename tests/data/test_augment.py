"""Augmentation moves boxes with their pixels, and removes those it leaves without area."""

import pytest
import torch
from torchvision import tv_tensors

from sssd.data import training_transform


def sample(*boxes: list[float]) -> tuple[tv_tensors.Image, dict]:
    """Give an image that is white in the boxes and black elsewhere."""
    image = torch.zeros(3, 60, 80, dtype=torch.uint8)
    for left, top, right, bottom in boxes:
        image[:, int(top) : int(bottom), int(left) : int(right)] = 255
    return tv_tensors.Image(image), {
        "boxes": tv_tensors.BoundingBoxes(
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            format="XYXY",
            canvas_size=(60, 80),
        ),
        "labels": torch.arange(len(boxes)),
        "image_id": 1,
    }


def test_flip() -> None:
    image, target = training_transform(flip=1.0)(*sample([10, 20, 30, 50]))
    assert target["boxes"].tolist() == [[50, 20, 70, 50]]
    assert image[0, 20:50, 50:70].min() == 255
    assert image[0].sum() == 255 * 20 * 30


def test_nothing_is_flipped_unasked() -> None:
    transform = training_transform(flip=0.0)
    for _ in range(20):
        image, target = transform(*sample([10, 20, 30, 50]))
        assert target["boxes"].tolist() == [[10, 20, 30, 50]]
        assert torch.equal(image, sample([10, 20, 30, 50])[0])


def test_boxes_without_area_are_removed_with_their_labels() -> None:
    _, target = training_transform()(*sample([10, 20, 30, 50], [5, 5, 5, 40], [1, 1, 9, 9]))
    assert target["labels"].tolist() == [0, 2]
    assert target["boxes"].shape == (2, 4)


def test_images_without_boxes_pass() -> None:
    transform = training_transform(flip=0.5, photometric=True, scale=2.0)
    for _ in range(10):
        image, target = transform(*sample())
        assert image.shape[0] == 3
        assert target["boxes"].shape == (0, 4)
        assert target["labels"].shape == (0,)


def test_scale_changes_sizes_within_its_limit() -> None:
    torch.manual_seed(0)
    transform = training_transform(flip=0.0, scale=1.5)
    sizes = []
    for _ in range(100):
        image, target = transform(*sample([30, 20, 50, 40]))
        height, width = image.shape[-2:]
        assert 60 / 1.5 - 1 <= height <= 90
        assert 80 / 1.5 - 1 <= width <= 120
        sizes.append((height, width))
        left, top, right, bottom = target["boxes"][0].int().tolist()
        assert image[0, top:bottom, left:right].min() == 255  # the pixels went with the box
        assert target["boxes"].canvas_size == (height, width)
    assert any(height > 60 for height, _ in sizes)
    assert any(height < 60 for height, _ in sizes)


def test_photometric_keeps_boxes() -> None:
    torch.manual_seed(0)
    transform = training_transform(flip=0.0, photometric=True)
    original = sample([10, 20, 30, 50])[0] // 2
    changed = 0
    for _ in range(20):
        image, target = transform(tv_tensors.wrap(original, like=original), sample([1, 2, 3, 5])[1])
        assert target["boxes"].tolist() == [[1, 2, 3, 5]]
        assert image.dtype == torch.uint8
        changed += not torch.equal(image, original)
    assert changed >= 5


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 900), (900, 2), (3, 3)])
def test_a_crop_is_never_empty(height: int, width: int) -> None:
    torch.manual_seed(0)
    transform = training_transform(scale=3.0)
    image = tv_tensors.Image(torch.zeros(3, height, width, dtype=torch.uint8))
    boxes = tv_tensors.BoundingBoxes(
        torch.tensor([[0.0, 0.0, width, height]]), format="XYXY", canvas_size=(height, width)
    )
    for _ in range(40):
        changed, _ = transform(image, {"boxes": boxes, "labels": torch.tensor([0])})
        assert min(changed.shape[-2:]) >= 1


@pytest.mark.parametrize("settings", [{"flip": 1.5}, {"flip": -0.1}, {"scale": 0.5}])
def test_wrong_settings_are_named(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        training_transform(**settings)

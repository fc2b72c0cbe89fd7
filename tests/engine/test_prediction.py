"""`Run.predict`: images of every kind are read as training reads them, and nonsense is named."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from sssd.data import read_image
from sssd.engine.prediction import Detections, read_threshold
from sssd.engine.runs import Run, load


@pytest.fixture(scope="module")
def run(finished_run: Path) -> Run:
    return load(finished_run)


@pytest.fixture(scope="module")
def file(finished_run: Path) -> Path:
    return finished_run.parent / "data" / "val" / "1.png"


def assert_same(one: Detections, other: Detections) -> None:
    assert len(one) == len(other) > 0
    for name, value in one.found().items():
        torch.testing.assert_close(value, other.found()[name])
    assert one.size == other.size


def test_one_image_in_every_form_is_the_same_image(run: Run, file: Path) -> None:
    pixels = read_image(file)
    array = pixels.permute(1, 2, 0).numpy()
    with_alpha = np.concatenate([array, np.full_like(array[..., :1], 7)], axis=2)
    forms: list[Any] = [
        *(str(file), file, Image.open(file), array, array[..., ::-1][..., ::-1], with_alpha),
        *(pixels, pixels.float() / 255, (pixels.double() / 255).requires_grad_()),
    ]
    first, *others = run.predict(forms, threshold=0.3)
    assert (first.file, others[1].file) == (file, None)
    for other in others:
        assert_same(first, other)
    for form in (str(file), array, pixels):  # one that is no list
        assert_same(run.predict(form, threshold=0.3)[0], first)
    both = run.predict(torch.stack([pixels, pixels]), threshold=0.3, batch_size=2)
    assert len(both) == 2
    assert_same(both[1], first)
    assert run.predict([], threshold=0.3) == []


def test_files_and_their_pictures_are_read_as_training_reads_them(
    run: Run, file: Path, tmp_path: Path
) -> None:
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    grey = Image.open(file).convert("L").resize((80, 48))
    grey.save(tmp_path / "turned.png", exif=turned)
    deep = (np.asarray(grey).astype(np.uint16) << 8) + 9
    Image.fromarray(deep).save(tmp_path / "deep.png")
    (upright,) = run.predict(tmp_path / "turned.png", threshold=0.3)
    assert upright.size == (80, 48)
    opened = Image.open(tmp_path / "turned.png")
    assert_same(run.predict(opened, threshold=0.3)[0], upright)
    array = np.asarray(grey)
    tensor = torch.from_numpy(array.copy())
    for same in (deep, tmp_path / "deep.png", array, array[..., None], tensor, tensor[None]):
        (found,) = run.predict(same, threshold=0.3)
        assert found.size == (48, 80)
        assert_same(found, run.predict(grey, threshold=0.3)[0])


def test_a_full_image_is_told(finished_run: Path, file: Path) -> None:
    """Else a crowded image loses its objects from the 101st on without a word."""
    run = load(finished_run)
    (all_of_them,) = run.predict(file, threshold=0.3)
    run.detector.max_detections = most = len(all_of_them) - 1
    with pytest.warns(UserWarning, match=f"an image has {most} objects, the most that this"):
        (found,) = run.predict(file, threshold=0.3)
    assert torch.equal(found.scores, all_of_them.scores[:most])


def test_detections_say_what_they_are(run: Run, file: Path) -> None:
    (all_of_them,) = run.predict(file, threshold=0)
    median = all_of_them.scores.median().item()
    (found,) = run.predict(file, threshold=median)
    (expected,) = run.detector([read_image(file).float() / 255])
    kept = expected["scores"] >= median
    assert len(all_of_them) == len(kept) > len(found) == int(kept.sum()) > 0
    torch.testing.assert_close(found.boxes, expected["boxes"][kept])
    objects = list(found)
    assert [o.name for o in objects] == found.names == [f"kind{o.label}" for o in objects]
    assert objects[0].box == tuple(found.boxes[0].tolist())
    rows = found.to_coco(image_id=7)
    assert [row["category_id"] for row in rows] == [o.label + 1 for o in objects]
    assert {row["image_id"] for row in rows} == {7}
    counts = sorted(int(part.split()[0]) for part in str(found).split(", "))
    assert sum(counts) == len(found)
    assert str(run.predict(file, threshold=1)[0]) == "nothing"
    height, width = found.size
    assert repr(found) == f"Detections({found} in {file}, {height} x {width})"
    named = replace(found, boxes=found.boxes[:0], scores=found.scores[:0], labels=found.labels[:0])
    assert repr(replace(named, file=None)) == f"Detections(nothing, {height} x {width})"


def array(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    return np.zeros(shape, dtype)


NONSENSE: dict[str, Any] = {
    "images is a int": 3,
    "images is a dict": {"a": 1},
    "images is a NoneType": None,
    "images[1] is a list": [array(4, 4, 3), [1, 2]],
    "images[0] is an array (3, 8, 9) of uint8": array(3, 8, 9),
    "images[0] is an array (0, 4, 3)": array(0, 4, 3),
    "images[0] is an array (4, 4, 3) of float64; pass uint8": array(4, 4, 3, dtype=float),
    "images[0] is an array (4, 4) of bool": array(4, 4, dtype=bool),
    "images[0] is an array (4, 4, 3) of uint16": array(4, 4, 3, dtype=np.uint16),
    "images[0] is a tensor (8, 9, 3) of torch.uint8": torch.zeros(8, 9, 3, dtype=torch.uint8),
    "images[0] is a tensor (3, 4, 4) of torch.int64": torch.zeros(3, 4, 4, dtype=torch.int64),
    "with values from 0 to 255": torch.tensor([0.0, 255.0]).expand(3, 2, 2),
    "with values from nan to nan": torch.full((3, 2, 2), math.nan),
    "images[0]: 32-bit pixels": Image.new("F", (4, 4)),
    "absent.png: the image file does not exist": "absent.png",
}


@pytest.mark.parametrize("said", NONSENSE)
def test_nonsense_is_refused_by_its_place(said: str, run: Run) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        run.predict(NONSENSE[said], threshold=0.3)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"threshold": math.nan}, "threshold is nan"),
        ({"threshold": "0.5"}, "threshold is '0.5'"),
        ({"threshold": True}, "threshold is True"),
        ({"threshold": 0.3, "batch_size": 0}, "batch_size is 0"),
        ({"threshold": 0.3, "batch_size": 2.0}, "batch_size is 2.0"),
    ],
)
def test_options_without_meaning(options: dict[str, Any], said: str, run: Run) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        run.predict(torch.zeros(3, 64, 64), **options)
    assert said in str(raised.value)


def test_the_threshold_is_the_runs_own(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"has no thresholds\.json.*a score threshold of 0\.3 is used"
    ):
        assert read_threshold(tmp_path) == 0.3
    path = tmp_path / "thresholds.json"
    path.write_text('{"all": 0.41, "by_class": {"kind0": 0.9}, "iou": 0.5}')
    assert read_threshold(tmp_path) == 0.41
    for broken in ('{"all": 3}', '{"by_class": {}}', '{"all": "high"}', "[0.3]", "{"):
        path.write_text(broken)
        with pytest.raises(ValueError, match=r"thresholds\.json"):
            read_threshold(tmp_path)

"""The teacher's AP: detections from K_e, which is given the labels."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sssd.data import evaluation_loader, read_coco
from sssd.engine.inference import detect
from sssd.engine.log import read_metrics
from sssd.evaluate import main
from tests.runs import make_run
from tests.scenes import write_scenes
from tests.tiny import tiny_detector


class Recording(nn.Module):
    """A fusion that keeps what it is given and hands K back, `factor` times."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor, self.given = factor, []

    def forward(
        self, maps: list[Tensor], objects: Any, image_size: tuple[int, int]
    ) -> list[Tensor]:
        self.given.append((objects, image_size))
        return [self.factor * m for m in maps]


def test_the_head_detects_on_what_the_fusion_makes_of_maps_and_labels(tmp_path: Path) -> None:
    dataset = read_coco(write_scenes(tmp_path, "val", count=3))
    detector = tiny_detector()
    with torch.no_grad():
        detector.model.head.classification_head.cls_logits.bias += 5
    same, other = Recording(), Recording(0.0)
    found, taught = detect(detector, evaluation_loader(dataset, 2), same)
    assert found.keys() == taught.keys() == {1, 2, 3}
    for image_id, one in found.items():
        assert len(one["boxes"])
        assert all(torch.equal(value, taught[image_id][key]) for key, value in one.items())
    labels = torch.cat([objects.labels for objects, _ in same.given])
    assert labels.tolist() == [1, 0, 1]  # write_scenes: number % 2
    (objects, (height, _)), *_ = same.given
    file_boxes = torch.from_numpy(dataset.targets(0)[0])
    assert torch.allclose(objects.boxes[0], file_boxes[0] * height / 64)  # the batch's pixels
    own, nothing = detect(detector, evaluation_loader(dataset, 2))
    assert torch.equal(own[1]["boxes"], found[1]["boxes"])
    assert not nothing
    _, blind = detect(detector, evaluation_loader(dataset, 2), other)
    assert not torch.equal(blind[1]["scores"], taught[1]["scores"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = ["--method.name", "sssd", "--method.fusion.name", "painted"]
    return make_run(tmp_path_factory.mktemp("run"), *settings)


def numbers_of(run: Path, out: Path, *flags: str) -> dict[str, float]:
    assert main([str(run), "--teacher", "--out", str(out / "numbers.json"), *flags]) == 0
    return json.loads((out / "numbers.json").read_text())


def test_a_run_leaves_the_teacher_and_its_numbers(run: Path) -> None:
    at_end = json.loads((run / "evaluation.json").read_text())
    assert {"AP", "teacher/AP", "teacher/APs"} <= at_end.keys()
    (row,) = (row for row in read_metrics(run) if "AP" in row)
    assert row == {"iteration": 1, **at_end}
    assert (run / "teacher.safetensors").stat().st_size > 0


def test_the_command_tells_both(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = numbers_of(run, tmp_path, "--detections", str(tmp_path / "found.json"))
    assert len(numbers) == 24
    assert numbers["AR100"] > 0  # the run's head was made bold
    assert "teacher (given the labels): 3 images" in " ".join(capsys.readouterr().out.split())
    found = json.loads((tmp_path / "found.json").read_text())
    assert {row["image_id"] for row in found} <= {1, 2, 3}
    assert {"bbox", "category_id", "score"} < found[0].keys()


def test_labels_of_other_data_are_known_by_their_names(run: Path, tmp_path: Path) -> None:
    """The same images with the classes in another order give the teacher the same labels."""
    path = run.parent / "data" / "annotations" / "instances_val.json"
    document = json.loads(path.read_text())
    swapped = {1: 2, 2: 1}
    for category in document["categories"]:
        category["id"] = swapped[category["id"]]
    for annotation in document["annotations"]:
        annotation["category_id"] = swapped[annotation["category_id"]]
    other = path.with_name("swapped.json")
    other.write_text(json.dumps(document))
    data = ["--data.val", str(other), "--data.val-images", str(run.parent / "data" / "val")]
    assert numbers_of(run, tmp_path, *data) == numbers_of(run, tmp_path)


def test_both_steps_of_labelenc_leave_theirs(tmp_path: Path) -> None:
    first = make_run(tmp_path / "1", "--method.name", "labelenc_step1")
    step1 = ["--method.step1-weights", str(first / "step1.safetensors")]
    second = make_run(tmp_path / "2", "--method.name", "labelenc_step2", *step1)
    for run in (first, second):
        assert "teacher/AP" in numbers_of(run, run)


@pytest.mark.parametrize("changes", [[], ["--method.name", "sssd", "--method.coefficient.value=0"]])
def test_a_run_without_teacher_is_refused(
    changes: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, *changes)
    assert "teacher/AP" not in json.loads((run / "evaluation.json").read_text())
    with pytest.raises(SystemExit) as exit_info:
        main([str(run), "--teacher"])
    assert exit_info.value.code == 2
    assert "has no implicit teacher" in " ".join(capsys.readouterr().err.split())

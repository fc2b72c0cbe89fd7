"""The command: the numbers that training ended with, and what it says to bad input."""

import json
from pathlib import Path

import pytest

from sssd.data.build import build_validation_set
from sssd.engine.inference import evaluate_detector
from sssd.engine.runs import load
from sssd.engine.settings import EngineConfig
from sssd.evaluate import main
from tests.scenes import write_scenes


@pytest.fixture(scope="module")
def run(finished_run: Path) -> Path:
    return finished_run


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit status and the error's text of a command that must fail."""
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code, " ".join(capsys.readouterr().err.split())


def test_both_engines_print_and_write_the_same_numbers(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run.rglob("*"))
    written = []
    for engine in ("pycocotools", "faster-coco-eval"):
        out = tmp_path / f"{engine}.json"
        assert main([str(run), "--engine", engine, "--out", str(out)]) == 0
        written.append(json.loads(out.read_text()))
    assert written[0] == written[1]
    assert len(written[0]) == 12
    assert written[0]["AR100"] > 0
    assert sorted(run.rglob("*")) == before
    output = capsys.readouterr().out
    assert "3 images of instances_val.json" in output
    assert f"{100 * written[0]['AR100']:.2f}" in output


def test_the_numbers_are_those_of_the_training_loop(run: Path, tmp_path: Path) -> None:
    opened = load(run)
    dataset = build_validation_set(opened.data)
    config = EngineConfig(batch_size=opened.batch_size, workers=0)
    assert main([str(run), "--out", str(tmp_path / "numbers.json")]) == 0
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers == evaluate_detector(opened.detector, dataset, config)


def test_other_data_are_evaluated(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_scenes(tmp_path, "test", count=4)
    assert main([str(run), "--data.val", str(path), "--batch-size", "3"]) == 0
    assert "4 images of instances_test.json" in capsys.readouterr().out


def test_data_with_fewer_classes_are_evaluated_by_their_names(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_scenes(tmp_path, "some", count=4)
    document = json.loads(path.read_text())
    document["annotations"] = [a for a in document["annotations"] if a["category_id"] == 2]
    path.write_text(json.dumps(document))
    numbers = []
    for categories in (document["categories"], [{"id": 2, "name": "kind1"}]):
        path.write_text(json.dumps({**document, "categories": categories}))
        out = tmp_path / "numbers.json"
        assert main([str(run), "--data.val", str(path), "--out", str(out)]) == 0
        numbers.append(json.loads(out.read_text()))
    # A class without objects counts for nothing, whether the data name it or not.
    assert numbers[0] == numbers[1]
    assert numbers[0]["AR100"] > 0
    said = capsys.readouterr().out
    assert said.count("has 1 of the run's 2 classes, known by their names;") == 1
    assert "left out: kind0" in said


def test_wrong_use_is_status_two(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_scenes(tmp_path, "other", classes=3)
    empty = write_scenes(tmp_path, "empty", count=0)
    cases = {
        "no such folder": [str(tmp_path / "absent")],
        "does not exist": [str(run), "--data.val", str(tmp_path / "absent.json")],
        "was trained on 2": [str(run), "--data.val", str(other)],
        "instances_empty.json": [str(run), "--data.val", str(empty)],
        "--batch-size is 0": [str(run), "--batch-size", "0"],
        "nonsense": [str(run), "--engine", "nonsense"],
        "not usable here": [str(run), "--device", "nowhere"],
    }
    for said, arguments in cases.items():
        status, message = fails(capsys, *arguments)
        assert status == 2, message
        assert said in message


def test_a_file_that_can_not_be_written_is_status_one(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    status, message = fails(capsys, str(run), "--out", str(tmp_path / "file" / "numbers.json"))
    assert status == 1
    assert "cannot be written" in message

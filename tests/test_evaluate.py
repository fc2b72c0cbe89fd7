"""The command: the numbers that training ended with, and what it says to bad input."""

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, safe_open, save_file

from sssd.data.build import build_validation_set
from sssd.engine.evaluate import evaluate_detections
from sssd.engine.files import RunError, write_text
from sssd.engine.inference import evaluate_detector
from sssd.engine.runs import load
from sssd.evaluate import main
from tests.scenes import write_scenes
from tests.tiny import QUIET


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
    assert main([str(run), "--out", str(tmp_path / "numbers.json")]) == 0
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers == evaluate_detector(opened.detector, dataset, opened.batch_size).numbers


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
    assert said.count("has 1 of the run's 2 classes, matched by name;") == 1
    assert "ignored: kind0" in said


def test_wrong_use_is_status_two(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_scenes(tmp_path, "other", classes=3)
    empty = write_scenes(tmp_path, "empty", count=0)
    elsewhere = Path(shutil.copytree(run, tmp_path / "run"))
    record = json.loads((elsewhere / "config.json").read_text())
    record["data"]["val"] = record["data"]["train"]
    (elsewhere / "config.json").write_text(json.dumps(record))
    picture = tmp_path / "a.png"
    picture.touch()
    cases = {
        "no such folder": [str(tmp_path / "absent")],
        "does not exist": [str(run), "--data.val", str(tmp_path / "absent.json")],
        "was trained on 2": [str(run), "--data.val", str(other)],
        "instances_empty.json": [str(run), "--data.val", str(empty)],
        "--batch-size is 0": [str(run), "--batch-size", "0"],
        "--min-size is 8; it must be at least 32": [str(run), "--min-size", "8"],
        "--max-size is 99999999; it must be at least 32 and at most 10000": [
            str(run),
            "--max-size",
            "99999999",
        ],
        "less than --min-size": [str(run), "--min-size", "96", "--max-size", "64"],
        "of one run, or of two; 3 were given": [str(run)] * 3,
        "--report works with one run only": [str(run), str(run), "--report", "page.html"],
        "validation sets of": [str(run), str(elsewhere)],
        "nonsense": [str(run), "--engine", "nonsense"],
        "cannot be used here": [str(run), "--device", "nowhere"],
        "--out: ": [str(run), "--out", str(other)],
        "is an image": [str(run), "--detections", str(picture)],
        "evaluation.json belongs to the run": [str(run), "--out", str(run / "evaluation.json")],
        "--out and --report are the same file": [str(run), "--out", "a", "--report", "./a"],
        "is a folder; name a file": [str(run), "--detections", str(tmp_path)],
        "a.png/b.json cannot be written": [str(run), "--report", str(picture / "b.json")],
        "teacher of the best weights is not kept": [str(run), "--teacher", "--weights", "best"],
        "--data.format demo makes": [str(run), "--data.val", str(other), "--data.format", "demo"],
    }
    for said, arguments in cases.items():
        status, message = fails(capsys, *arguments)
        assert status == 2, message
        assert said in message


def test_a_file_that_can_not_be_written_costs_no_other_and_is_status_one(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, text: str) -> None:
        if path.name == "numbers.json":
            raise RunError("the disk is full")
        write_text(path, text)

    monkeypatch.setattr("sssd.evaluate.write_text", write)
    found = tmp_path / "found.json"
    places = ["--out", str(tmp_path / "numbers.json"), "--detections", str(found)]
    assert main([str(run), *places]) == 1
    said = capsys.readouterr()
    assert "error: --out: the disk is full" in said.err
    assert "AP50" in said.out  # an evaluation may have taken hours
    assert json.loads(found.read_text())


def test_two_runs_stand_side_by_side(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    path = other / "model.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    weights = load_file(path)
    for name in weights:
        if name.endswith("cls_logits.bias"):
            weights[name] -= 50  # it finds nothing
    save_file(weights, path, metadata)
    assert main([str(run), str(other)]) == 0
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    found = {row[0].strip(): [float(cell) for cell in row[1:]] for row in rows if "-" not in row[1]}
    assert found["AR100"][0] > 0
    for first, second, difference in found.values():
        assert (second, difference) == (0, -first)


def test_the_page_and_the_classes_of_other_data_at_another_size(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, page = write_scenes(tmp_path, "test", count=4), tmp_path / "pages" / "page.html"
    numbers = []
    for size in ([], ["--min-size", "64"], ["--min-size", "96"]):
        out = ["--out", str(tmp_path / "numbers.json"), *size]
        report = [] if page.exists() else ["--report", str(page)]  # one takes a second
        assert main([str(run), "--data.val", str(path), *report, *out]) == 0
        numbers.append(json.loads((tmp_path / "numbers.json").read_text()))
    assert numbers[0] == numbers[1] != numbers[2]
    assert "4 images of instances_test.json" in page.read_text()
    said = capsys.readouterr().out
    assert said.count("AP by class, lowest first") == 3
    assert "kind1" in said


def test_from_python_without_a_trace(run: Path, tmp_path: Path) -> None:
    opened = load(run)
    sizes = opened.detector.model.transform.min_size, opened.detector.model.transform.max_size
    other = write_scenes(tmp_path, "val", count=3)
    evaluation = opened.evaluate({"val": other}, min_size=96, workers=1, console=QUIET)
    assert multiprocessing.active_children() == []
    assert (opened.detector.model.transform.min_size, opened.detector.model.transform.max_size) == (
        sizes
    )
    assert evaluate_detections(evaluation.dataset.ground_truth(), evaluation.detections) == (
        evaluation.numbers
    )
    fast = opened.evaluate(other, engine="faster-coco-eval", min_size=96, console=QUIET)
    assert fast.thresholds == evaluation.thresholds
    assert [row.name for row in fast.by_class] == [row.name for row in evaluation.by_class]


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"engine": "lvis"}, ValueError, "engine must be"),
        ({"batch_size": 0}, ValueError, "batch_size is 0; it must be at least 1"),
        ({"workers": 1.5}, TypeError, r"workers is 1\.5; it must be a whole number"),
        ({"min_size": True}, TypeError, "min_size is True"),
        ({"max_size": 31}, ValueError, "max_size is 31; it must be at least 32 and at most 10000"),
        ({"min_size": 96, "max_size": 64}, ValueError, "max_size is 64, less than min_size"),
        ({"data": {"vall": "a.json"}}, TypeError, "'vall' is not a data setting of evaluation"),
        ({"data": {"val": 3}}, TypeError, r"data\.val is 3"),
        ({"data": "absent.json"}, ValueError, "absent.json"),
        ({"teacher": True}, ValueError, "no implicit teacher"),
    ],
)
def test_what_cannot_be_used_is_named(
    run: Path, arguments: dict, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        load(run).evaluate(**arguments, console=QUIET)

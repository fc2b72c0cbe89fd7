"""The report of a run: whole, by itself, and no danger to what it is about."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from sssd import fitting
from sssd.data import read_coco
from sssd.engine.analysis import Analysis
from sssd.engine.inference import Evaluation
from sssd.engine.runs import Run, load
from sssd.report import charts, making
from sssd.report.examples import choose
from sssd.report.results import write_tables
from sssd.report.run import write_report
from tests.compare.test_report import Checked
from tests.scenes import write_scenes
from tests.tiny import QUIET

SECTIONS = ["Numbers", "Classes", "Thresholds", "Confusion matrix", "Training", "Images", "Data",
            "Settings", "Time and memory", "Next steps"]  # fmt: skip


@pytest.fixture(scope="module")
def run(finished_run: Path) -> Run:
    return load(finished_run)


@pytest.fixture(scope="module")
def evaluation(run: Run) -> Evaluation:
    return run.evaluate(console=QUIET)


def page_of(path: Path) -> Checked:
    page = Checked()
    page.feed(path.read_text(encoding="utf-8"))
    assert page.open == []
    assert all(link.startswith("data:image/") for link in page.loaded)
    return page


def test_the_page_is_whole_and_needs_nothing_beside_it(
    run: Run, evaluation: Evaluation, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    assert write_report(path, run, evaluation, train_set=evaluation.dataset) == []
    page = page_of(path)
    text = path.read_text(encoding="utf-8")
    assert [name for name in SECTIONS if "<h2 id=" not in text or f">{name}</h2>" not in text] == []
    assert f"{100 * evaluation.numbers['AR100']:.1f}" in page.text
    for row in evaluation.by_class:
        assert f"<td>{row.name}</td>" in text
    assert len(page.loaded) == 2 * 3  # truth and detections of each of three images
    assert "--method.name" in page.text
    assert f"python -m sssd.predict '{run.folder}' IMAGES" in page.text
    assert "train small --detector.backbone resnet18 --detector.start-from" in page.text
    assert path.stat().st_size < 5e6
    assert evaluation.analysis.threshold is not None


def test_the_commands_are_for_the_runs_own_network(run: Run, tmp_path: Path) -> None:
    other = replace(run.config, name="retinanet", width=96)
    (code,) = making.commands(tmp_path, other)
    network = "--detector.name retinanet --detector.backbone resnet18 --detector.width 96"
    assert f"sssd.train small {network} --detector.start-from {tmp_path} --data" in code.text
    assert "--resume" not in code.text  # there is no checkpoint


def test_names_are_text(run: Run, tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>", "$a_b$ & {0} 信号"]
    json_path = write_scenes(tmp_path, "val", count=3)
    document = json.loads(json_path.read_text())
    document["categories"] = [{"id": i, "name": n} for i, n in enumerate(names, start=1)]
    json_path.write_text(json.dumps(document), encoding="utf-8")
    dataset = read_coco(json_path)
    found = [{**one, "score": 0.9} for one in dataset.ground_truth()["annotations"]]
    numbers = dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100",
                             "ARs", "ARm", "ARl"), 1.0)  # fmt: skip
    path = tmp_path / "page.html"
    with pytest.warns(UserWarning, match="no installed font can draw"):
        assert write_report(path, run, Evaluation(numbers, found, dataset)) == []
    page = page_of(path)
    for name in names:
        assert name in page.text


def test_two_classes_of_one_name_have_numbers_of_their_own(run: Run, tmp_path: Path) -> None:
    json_path = write_scenes(tmp_path, "val", count=3)
    document = json.loads(json_path.read_text())
    document["categories"] = [{"id": i, "name": "cell"} for i in (1, 2)]
    json_path.write_text(json.dumps(document))
    dataset = read_coco(json_path)
    truth = dataset.ground_truth()["annotations"]
    score = {1: 0.9, 2: 0.3}
    found = [{**one, "score": score[one["category_id"]]} for one in truth]
    evaluation = Evaluation({}, found, dataset)
    write_tables(evaluation, tmp_path)
    with (tmp_path / "classes.csv").open() as file:
        rows = [(int(row["label"]), float(row["score"])) for row in csv.DictReader(file)]
    assert sorted(rows) == [(0, 0.45), (1, 0.15)], "between nothing and the scores"


def test_a_fault_in_one_section_leaves_the_others_and_says_so(
    run: Run, evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(analysis: Analysis) -> None:
        raise ZeroDivisionError("planted <fault>")

    monkeypatch.setattr(charts, "confusion", broken)
    path = tmp_path / "report.html"
    failed = write_report(path, run, evaluation)
    assert failed == ["Confusion matrix: ZeroDivisionError: planted <fault>"]
    page = page_of(path)
    assert "Not available: ZeroDivisionError: planted <fault>" in page.text
    for name in SECTIONS:
        assert name in page.text


@pytest.mark.parametrize("where", ["write_report", "write_tables"])
def test_a_report_that_fails_costs_nothing_else(
    run: Run,
    evaluation: Evaluation,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError("planted fault")

    module = "results" if where == "write_tables" else "run"
    monkeypatch.setattr(f"sssd.report.{module}.{where}", broken)
    here = replace(run, folder=tmp_path)
    fitting.draw_report(here, evaluation, None, evaluation.dataset, Console())
    said = " ".join(capsys.readouterr().out.split())
    assert "the report was not written: OSError: planted fault; weights and numbers are in" in said


def test_tables(evaluation: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "thresholds.json").write_text("{}")
    write_tables(evaluation, tmp_path)
    with (tmp_path / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [row.name for row in evaluation.by_class]
    assert [float(row["AP"]) for row in rows] == [row.AP for row in evaluation.by_class]
    thresholds = json.loads((tmp_path / "thresholds.json").read_text())
    best = evaluation.analysis.threshold
    assert best is not None
    assert (thresholds["all"], thresholds["iou"]) == (best.score, 0.5)
    assert set(thresholds["by_class"]) <= {row.name for row in evaluation.by_class}
    with (tmp_path / "confusion.csv").open() as file:
        names, *matrix = csv.reader(file)
    assert names[1:] == [*evaluation.analysis.names, "background"]
    assert [[int(n) for n in row[1:]] for row in matrix] == evaluation.analysis.confusion.tolist()
    write_tables(Evaluation(evaluation.numbers, [], evaluation.dataset), tmp_path)
    assert not (tmp_path / "thresholds.json").exists(), "nothing is right: there is none"


def test_examples_are_the_worst_typical_and_good_images() -> None:
    right = np.array([9, 0, 1, 5, 0, 2, 3, 4, 5, 6, 0])
    wrong = np.array([1, 3, 3, 0, 9, 2, 2, 2, 2, 2, 0])
    objects = right + np.array([0, 2, 0, 0, 2, 2, 2, 2, 2, 2, 0])
    nothing = np.zeros(0)
    analysis = Analysis([], nothing, nothing, nothing, None, [], nothing, right, wrong, objects)
    chosen = choose(analysis)
    assert chosen["worst"] == [4, 1, 2, 5]  # F1 0 with most errors first, then 2/5 and 1/2
    assert chosen["good"] == [3, 0]  # F1 1 and 18/19
    assert chosen["typical"] == [6, 7]  # about the median of 0 0 .4 .5 .6 .67 .71 .75 .95 1
    few = [array[:3] for array in (right, wrong, objects)]
    assert choose(Analysis([], nothing, nothing, nothing, None, [], nothing, *few)) == {
        "worst": [1, 2, 0], "typical": [], "good": [],
    }  # fmt: skip


def test_names_are_drawn_whatever_they_hold() -> None:
    assert charts.cut("a\ud800b\x1b[0m") == "a b [0m", "no lone surrogate, no escape"
    assert not charts.cut("_hidden").startswith("_"), "legends leave it out"
    assert charts.cut("x" * 30) == "x" * 19 + "…"

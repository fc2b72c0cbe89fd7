"""The command: what it leaves behind, and what it says to bad input."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sssd.detectors import build_detector
from sssd.recipes import RECIPES
from sssd.train import _resumed, main
from tests.scenes import write_scenes
from tests.small import small_config

TINY = [
    *("--detector.backbone", "resnet18", "--detector.weights", "None", "--detector.width", "64"),
    *("--detector.min-size", "64", "--detector.max-size", "64"),
    *("--schedule.iterations", "4", "--schedule.milestones", "3", "--schedule.warmup", "1"),
    *("--engine.batch-size", "2", "--engine.workers", "0", "--engine.log-every", "1"),
]


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    folder = tmp_path / "data"
    train, val = write_scenes(folder, "train"), write_scenes(folder, "val", count=3)
    return ["--data.train", str(train), "--data.val", str(val)]


def fails(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> tuple[int, str]:
    """Exit status and the error's text of a command that must fail."""
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    captured = capsys.readouterr()
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code, " ".join(captured.err.split())


def test_a_run_leaves_numbers_pictures_metrics_and_weights(
    tmp_path: Path, data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["small", *data, *TINY, "--out", str(run)]) == 0
    output = capsys.readouterr().out
    for name in ("AP50", "AR100", "ETA", str(run)):
        assert name in output.replace("\n", "")
    assert len(json.loads((run / "evaluation.json").read_text())) == 24  # and its teacher's
    for name in ("report.html", "classes.csv", "confusion.csv", "metrics.csv", "metrics.jsonl"):
        assert (run / name).stat().st_size > 0
    assert json.loads((run / "config.json").read_text())["schedule"]["iterations"] == 4
    plain = build_detector(small_config(min_size=(64,)), 2)
    plain.model.load_state_dict(load_file(run / "model.safetensors"))


def test_resume_goes_on_and_a_new_run_does_not_overwrite(
    tmp_path: Path, data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["small", *data, *TINY, "--out", str(tmp_path / "run")]
    status, message = fails(capsys, [*arguments, "--resume"])
    assert status == 2
    assert "holds no checkpoint" in message
    assert main(arguments) == 0
    status, message = fails(capsys, arguments)
    assert status == 2
    assert "--resume" in message
    assert main([*arguments, "--resume"]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "nonsense"),
        (["small", "--no.such.flag", "1"], "no.such.flag"),
        (["small"], "--data.train is required"),
        (["small", "--schedule.iterations", "0"], "--schedule.iterations is 0"),
        (["small", "--schedule.iterations", "-5"], "--schedule.iterations is -5"),
        (["small", "--engine.batch-size", "many"], "--engine.batch-size"),
        (["small", "--engine.batch-size", "4", "--engine.accumulate", "3"], "a multiple of 3"),
        (["small", "--engine.device", "nonsense"], "device 'nonsense' cannot be used here"),
        (["small", "--engine.device", "meta"], "(it computes nothing); use 'cpu'"),
        (["small", "--engine.seed", str(2**63)], "it must be less than 2^63"),
        (["small", "--data.scale", "inf"], "--data.scale is inf"),
        (["small", "--data.pixel-range", "0", "inf"], "--data.pixel-range is 0 inf"),
    ],
)
def test_wrong_use_is_status_two(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, message = fails(capsys, arguments)
    assert status == 2
    assert said in message


def test_bad_data_is_named(
    tmp_path: Path, data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--out", str(tmp_path / "run")]
    _, train, _, val = data
    cases = {}
    absent = tmp_path / "absent.json"
    cases["does not exist"] = ["--data.train", str(absent), "--data.val", val]
    not_coco = tmp_path / "list.json"
    not_coco.write_text("[1, 2]")
    cases["not a COCO"] = ["--data.train", str(not_coco), "--data.val", val]
    unknown = json.loads(Path(train).read_text())
    unknown["annotations"][0]["category_id"] = 77
    (tmp_path / "data/annotations/instances_unknown.json").write_text(json.dumps(unknown))
    shutil.copytree(tmp_path / "data/train", tmp_path / "data/unknown")
    unknown_path = tmp_path / "data/annotations/instances_unknown.json"
    cases["77"] = ["--data.train", str(unknown_path), "--data.val", val]
    for said, arguments in cases.items():
        status, message = fails(capsys, ["small", *arguments, *TINY, *run])
        assert status == 2, message
        assert said in message
    (tmp_path / "data/train/2.png").write_bytes(b"no image")
    status, message = fails(capsys, ["small", *data, *TINY, *run])
    assert status == 2
    assert "2.png" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_images_is_refused_before_the_first_step(
    split: str, tmp_path: Path, data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    empty = write_scenes(tmp_path / "none", "none", count=0)
    run = ["--out", str(tmp_path / "run")]
    status, message = fails(capsys, ["small", *data, f"--data.{split}", str(empty), *TINY, *run])
    assert status == 2
    assert str(empty) in message
    assert not (tmp_path / "run").exists()


def test_weights_that_are_none_are_told_what_they_are(
    tmp_path: Path, data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text("{}")
    checkpoint = run / "checkpoints" / "00000007.pt"
    torch.save({"method": {}, "optimizer": {}, "iteration": 7}, checkpoint)
    others = {"of another program": {"model": {"w": torch.zeros(1)}, "epoch": 3}, "list": [1]}
    for name, content in others.items():
        torch.save(content, tmp_path / f"{name}.pt")
    cases = {
        f"the run in {run} is not finished, so it has no model.safetensors; resume it": run,
        f"is a checkpoint of a run; give the run's final weights, "
        f"{run / 'model.safetensors'}.": checkpoint,
        "it holds model, epoch; save only the state dict": tmp_path / "of another program.pt",
        "it holds list; save": tmp_path / "list.pt",
    }
    for said, path in cases.items():
        status, message = fails(capsys, ["small", *data, *TINY, "--detector.start-from", str(path)])
        assert status == 2
        assert message.startswith("error: ")
        assert "--detector.start-from" in message
        assert said in message


def test_weights_for_other_classes_without_names_are_refused(
    tmp_path: Path, data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    other = build_detector(small_config(min_size=(64,)), 9)
    torch.save(other.model.state_dict(), tmp_path / "other.pt")
    start = ["--detector.start-from", str(tmp_path / "other.pt")]
    status, message = fails(capsys, ["small", *data, *TINY, *start])
    assert status == 2
    assert "other.pt" in message
    assert "(--detector.start-from) has 9 classes without names" in message
    assert "there are 2 here. Give the model.safetensors of a run" in message


def test_help_names_recipes_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["coco", "--help"]):
        with pytest.raises(SystemExit) as exit_info:
            main(arguments)
        assert exit_info.value.code == 0
    output = capsys.readouterr().out
    for text in (
        "demo",
        "coco",
        "--data.train",
        "--engine.accumulate INT",
        "--engine.deterministic",
        "--method.name {plain,sssd,lgd,labelenc_step1,labelenc_step2}",
    ):
        assert text in output


@pytest.mark.parametrize(
    ("arguments", "own", "foreign"),
    [
        (["small"], ["method.temperature", "method.fusion.name"], ["fusion.context", "step1-"]),
        (["fcos_r50_lgd"], ["method.fusion.context"], ["method.temperature", "step1-weights"]),
        (["small", "--method.name", "plain"], ["method.name"], ["method.adapter", "coefficient"]),
        (["coco", "--method.name=labelenc_step2"], ["step1-weights"], ["method.adapter"]),
    ],
)
def test_help_shows_the_settings_of_the_method_alone(
    arguments: list[str], own: list[str], foreign: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([*arguments, "--help"])
    assert exit_info.value.code == 0
    output = capsys.readouterr().out
    assert all(text in output for text in own)
    assert not any(text in output for text in foreign)


@pytest.mark.slow
def test_labelenc_step_2_starts_from_what_step_1_leaves(tmp_path: Path, data: list[str]) -> None:
    steps = ["fcos_r50_labelenc_step1", "fcos_r50_labelenc_step2"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert main([steps[0], *data, *TINY, "--out", str(first)]) == 0
    weights = ["--method.step1-weights", str(first / "step1.safetensors")]
    assert main([steps[1], *data, *TINY, *weights, "--out", str(second)]) == 0
    assert not (second / "step1.safetensors").exists()


def test_list_shows_every_recipe_and_help_a_few(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(RECIPES)
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert "--list" in shown
    assert "fcos_r101_lgd" not in shown


def test_only_the_first_of_several_machines_needs_the_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["--resume", "--out", str(tmp_path)]
    with pytest.raises(ValueError, match="holds no checkpoint"):
        _resumed(asked)
    monkeypatch.setenv("RANK", "3")
    assert _resumed(asked) == tmp_path

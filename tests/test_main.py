"""The commands: their flags show at once and mean one thing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sssd import evaluate, export, predict
from sssd.engine.files import WEIGHTS
from sssd.engine.runs import load

COMMANDS = ("train", "evaluate", "predict", "export", "data", "compare")

HELP = """
import contextlib, io, sys
from importlib import import_module

for words in sys.argv[1:]:
    command, *rest = words.split()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            place = ".__main__" if command in ("data", "compare") else ""
            import_module(f"sssd.{command}{place}").main([*rest, "--help"])
        except SystemExit as end:
            assert not end.code
    assert f"usage: python -m sssd.{command}" in said.getvalue(), words
    slow = {"PIL", "matplotlib", "numpy", "onnx", "rich", "scipy", "torch", "torchvision"}
    print(words, *slow & sys.modules.keys(), sep=", ")
"""


def test_every_command_explains_itself_and_imports_nothing_for_it_that_takes_seconds() -> None:
    commands = [*COMMANDS, "train coco", "data check"]
    result = subprocess.run(
        [sys.executable, "-c", HELP, *commands], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines() == commands


def test_every_command_takes_the_best_weights_or_says_that_there_are_none(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(finished_run, tmp_path / "run"))
    image, out = finished_run.parent / "data/val/1.png", tmp_path / "found"
    calls = {
        export.main: ["--out", f"{out}.safetensors"],
        predict.main: [str(image), "--json", f"{out}.json", "--threshold", "0"],
        evaluate.main: ["--detections", f"{out}.coco"],
    }
    for command, arguments in calls.items():
        assert command([str(copy), *arguments, "--weights", "best"]) == 0
    best = load_file(copy / "best.safetensors")
    assert any(not torch.equal(best[k], v) for k, v in load_file(finished_run / WEIGHTS).items())
    assert all(torch.equal(best[k], v) for k, v in load_file(f"{out}.safetensors").items())
    (expected,) = load(copy, weights="best").predict(image, threshold=0)
    found = json.loads(Path(f"{out}.json").read_text())["annotations"]
    assert [row["score"] for row in found] == expected.scores.tolist() != []
    found = json.loads(Path(f"{out}.coco").read_text())
    scores = [row["score"] for row in found if row["image_id"] == 1]
    assert sorted(scores, reverse=True) == pytest.approx(expected.scores.tolist(), abs=1e-5)
    (copy / "best.safetensors").unlink()
    capsys.readouterr()
    for command, arguments in calls.items():
        with pytest.raises(SystemExit) as exit_info:
            command([str(copy), *arguments, "--weights", "best"])
        assert exit_info.value.code == 2
        assert "not been evaluated yet, so it has no best.safetensors" in capsys.readouterr().err

"""Whatever a user named is text to every command, and no stdout ends one."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import sssd.data.__main__ as data
from sssd import evaluate, export, predict, train
from sssd.commands import plain_console
from sssd.compare import __main__ as compare
from tests.runs import SETTINGS
from tests.scenes import write_scenes

NAMES = [
    *(
        "[stop]",
        "a[/b]",
        "[/x]",
        "[link=x]",
        ":cat:",
        "$$",
        "$a_b$",
        "$",
        r"\frac{",
        "{0}",
        "{",
        "%s",
    ),
    *("😀", "交通信号灯", "إشارة المرور", "two\nlines", "", " ", "x" * 300, "\ud800", "\x1b"),
]
FOLDER = "[red] [/x] $$ $a_b$ {0} %s 😀 信号 مرور"
FILE = "[b]{n} $x_1$ %d"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data whose classes, folders and files have names like these, and a run of them."""
    folder = tmp_path_factory.mktemp("text") / FOLDER
    for split in ("train", "val"):
        path = write_scenes(folder, split, count=len(NAMES) if split == "train" else 2)
        document = json.loads(path.read_text())
        document["categories"] = [{"id": i, "name": name} for i, name in enumerate(NAMES)]
        for image, annotation in zip(document["images"], document["annotations"], strict=True):
            annotation["category_id"] = image["id"] - 1
            name = f"{image['id']} {FILE}.png"
            (folder / split / image["file_name"]).rename(folder / split / name)
            image["file_name"] = name
        path.write_text(json.dumps(document))
    return folder


def json_of(folder: Path, split: str) -> str:
    return str(folder / "annotations" / f"instances_{split}.json")


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """The run, trained by a process with names as it is and nobody to read what it says."""
    run = folder / "run $$ [/x]"
    command = [
        *(sys.executable, "-m", "sssd.train", "small", "--out", str(run)),
        *("--data.train", json_of(folder, "train"), "--data.val", json_of(folder, "val")),
        *(*SETTINGS, "--method.name", "sssd", "--method.fusion.name", "painted"),
    ]
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "LANG": "C"}
    done = subprocess.run(command, stdout=writer, stderr=writer, env=environment, timeout=300)
    os.close(writer)
    assert done.returncode == 0
    return run


@pytest.mark.slow
def test_training_leaves_everything(run: Path) -> None:
    for name in ("model.safetensors", "report.html"):
        assert (run / name).stat().st_size > 0


@pytest.fixture
def commands(folder: Path, run: Path, tmp_path: Path) -> list[tuple[Callable, list[str]]]:
    """Commands on these data with what they are given."""
    out = tmp_path / FOLDER
    return [
        (data.main, ["check", json_of(folder, "train"), "--json", str(tmp_path / f"{FILE}.json")]),
        (evaluate.main, [str(run), "--out", str(out / "numbers.json")]),
        (
            predict.main,
            [
                *(str(run), str(folder / "val"), "--out", str(out), "--threshold", "0"),
                *("--json", str(out / "found.json")),
            ],
        ),
        (export.main, [str(run), "--out", str(out / f"{FILE}.safetensors")]),
        (export.main, [str(run), "--out", str(out / f"{FILE}.onnx")]),
    ]


@pytest.mark.slow
def test_commands_say_and_keep_the_names(
    commands: list[tuple[Callable, list[str]]],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "600")
    for main, arguments in commands:
        assert main(arguments) == 0, arguments
    said = capsys.readouterr().out
    for name in [*NAMES[:-1], FOLDER, FILE]:
        for line in name.encode("utf-8", "backslashreplace").decode().split("\n"):
            assert line in said
    out = tmp_path / FOLDER
    categories = json.loads((out / "found.json").read_text())["categories"]
    assert {row["name"] for row in categories} == {*NAMES}
    assert {p.stem for p in out.glob("*.png")} == {f"{n} {FILE}" for n in (1, 2)}


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "gbk"])
def test_what_an_encoding_lacks_is_escaped(
    encoding: str,
    commands: list[tuple[Callable, list[str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strict = io.TextIOWrapper(io.BytesIO(), encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", strict)
    for main, arguments in commands[:-1]:  # ONNX takes seconds, and says no more
        assert main(arguments) == 0, arguments
    strict.flush()
    said = strict.buffer.getvalue().decode(encoding)
    assert "[stop]" in said
    assert ("信号" if encoding == "gbk" else r"\u4fe1\u53f7") in said
    assert "\\U0001f600" in said


def test_a_console_prints_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    name = "[red]stop[/red] [/x] :cat: 3.14"
    plain_console().print(name, soft_wrap=True)
    assert capsys.readouterr().out == f"{name}\n"


@pytest.mark.parametrize("text", ["[/x]", "$$", "{0} %s", "猫"])
def test_errors_are_text(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for main, arguments in (
        (train.main, [text]),
        (train.main, ["small", "--data.train", text, "--data.val", text]),
        (train.main, ["small", "--engine.batch-size", text]),
        (evaluate.main, [text]),
        (evaluate.main, ["run", "--engine", text]),
        (predict.main, [text, text, "--out", text]),
        (export.main, [text, "--out", text]),
        (data.main, ["check", text]),
        (compare.main, ["demo", "--arms", "plain", text]),
        (compare.main, [text]),
    ):
        try:
            status = main(arguments)
        except SystemExit as error:
            status = error.code
        assert status == 2, arguments
        assert text in "".join(capsys.readouterr())


INTERRUPTED = """
import os, signal
from sssd.commands import plain_output

signal.signal(signal.SIGINT, signal.default_int_handler)  # what a job behind & lacks
plain_output()
os.kill(os.getpid(), signal.SIGINT)
"""


def test_ctrl_c_is_a_word_and_no_traceback() -> None:
    """Also where a command is not yet, or not any more, at what it can stop in its own way."""
    result = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (-signal.SIGINT, "stopped\n")

"""Every command and every piece of code in the README runs as it is printed.

Training is cut to two iterations on small images, a benchmark to a moment; what installs or
compiles is asked what it would do.
"""

import functools
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from bench import boxes, divergence
from sssd.data.demo import demo_data
from sssd.train import parse
from tests.runs import InThisProcess
from tests.scenes import write_scenes

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
INLINE = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", TEXT, flags=re.MULTILINE | re.DOTALL))
TOOLS = ("python", "make", "pip")

TWO_ITERATIONS = [
    *("--schedule.iterations", "2", "--schedule.milestones", "1", "--schedule.warmup", "1"),
    *("--detector.min-size", "64", "--detector.max-size", "64"),
    *("--engine.batch-size", "2", "--engine.workers", "0"),
]
MOMENT = ["--seconds", "0.01", "--threads", "1"]
SHORTER = {
    "python -m sssd.train": TWO_ITERATIONS,
    "python -m sssd.compare": TWO_ITERATIONS,
    "python -m bench.divergence": MOMENT,
    "python -m bench.boxes": [*MOMENT, "--objects", "2", "--fresh-pages"],
    "python setup.py build_ext": ["--help"],
    "pip install": ["--dry-run", "--no-deps", "--quiet"],
    "make": ["--dry-run"],
}


def commands() -> list[list[str]]:
    """The words of every command, in the README's order of blocks, then those within the text."""
    shell = "\n".join(text for language, text in BLOCKS if language != "python")
    lines = shell.replace("\\\n", " ").splitlines()
    lines += [" ".join(code.split()) for code in INLINE if code.startswith(TOOLS) and " " in code]
    words = [shlex.split(line, comments=True) for line in lines]
    return [command for command in words if command]


def shortened(command: list[str]) -> list[str]:
    """A command with the flags that make it quick, unless it only shows something."""
    if command[-1] in ("--help", "--list"):
        return command
    text = " ".join(command)
    return command + next((SHORTER[start] for start in SHORTER if text.startswith(start)), [])


def run_here(command: list[str]) -> int:
    """Exit status of "python -m MODULE ..." in this process: importing torch anew takes seconds."""
    module = import_module(command[2])
    if hasattr(module, "__path__"):
        module = import_module(f"{command[2]}.__main__")
    try:
        return module.main(command[3:])
    except SystemExit as error:  # --help
        return error.code


def is_here(command: list[str]) -> bool:
    return command[:2] == ["python", "-m"] and command[2].startswith("sssd.")


def is_benchmark(command: list[str]) -> bool:
    return "bench" in " ".join(command)


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the README's names stand for, and no run of a comparison."""
    for part in ("train", "val"):
        write_scenes(tmp_path / "DIR", part, count=3)
    (tmp_path / "IMAGES").mkdir()
    Image.new("RGB", (64, 48), "red").save(tmp_path / "IMAGES" / "photo.jpg")
    few = functools.partial(demo_data, tmp_path / "cache", train_scenes=8, val_scenes=2)
    monkeypatch.setattr("sssd.data.build.demo_data", few)
    monkeypatch.setattr("sssd.compare.comparison.ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr("sssd.compare.cost.end_with", lambda parent: None)
    monkeypatch.setattr("sssd.compare.cost.POSITIONS", 1)
    monkeypatch.setattr("sssd.compare.runner.Runner.run_all", lambda self, on_result: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_commands_of_the_package_run(newcomer: Path) -> None:
    for number, words in enumerate(filter(is_here, commands())):
        command = shortened(words)
        if command != words and words[2] == "sssd.train":
            # The run of the section on one's own data is the RUN of the lines below it.
            own = "DIR/annotations/instances_train.json" in words
            command += ["--out", "RUN" if own else f"runs/{number}"]
        assert run_here(command) == 0, shlex.join(command)
    assert (newcomer / "DIR" / "photo.png").exists()
    assert (newcomer / "detector.onnx").exists()


def test_benchmarks_run(newcomer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = [(6, 8), (3, 4)]
    monkeypatch.setitem(divergence.SHAPES, "800x1344", small)
    monkeypatch.setattr(divergence, "CHANNELS", 8)
    monkeypatch.setattr(boxes, "SHAPES", small)
    monkeypatch.setattr(boxes, "CHANNELS", 8)
    monkeypatch.setattr(boxes, "peak_bytes", lambda kind, count: 0)
    for words in filter(is_benchmark, commands()):
        command = shortened(words)
        script, *arguments = command[1:] if command[1] != "-m" else command[2:]
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        import_module(script.removesuffix(".py").replace("/", ".")).main()
    assert (newcomer / "runs" / "bench" / "divergence.csv").exists()


def test_other_commands_run() -> None:
    for words in commands():
        if is_here(words) or is_benchmark(words):
            continue
        command = shortened(words)
        modules = {"pip": ["-m", "pip"], "python": []}
        if command[0] in modules:
            command[:1] = [sys.executable, *modules[command[0]]]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"


def test_flags_within_the_text_are_known() -> None:
    """`--flag a|b` names choices."""
    flags = [code.split() for code in INLINE if code.startswith("--") and "." in code]
    assert ["--method.name", "plain"] in flags
    for name, choices in flags:
        for choice in choices.split("|"):
            parse(["coco", name, choice])


def test_code_runs() -> None:
    codes = [text for language, text in BLOCKS if language == "python"]
    assert codes
    for code in codes:
        exec(compile(code, "README.md", "exec"), {})

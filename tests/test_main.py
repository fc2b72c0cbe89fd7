"""The console script hands over to the commands, and shows their flags at once."""

import subprocess
import sys

import pytest

from sssd.__main__ import COMMANDS, main


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([command, "--help"])
    assert exit_info.value.code == 0
    assert "usage: python -m sssd." + command in capsys.readouterr().out


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    output = capsys.readouterr().out
    assert all(command in output for command in COMMANDS)
    assert main([]) == 2


def test_an_unknown_command_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    message = capsys.readouterr().err
    assert "'trian'" in message
    assert "evaluate" in message


HELP = """
import contextlib, io, sys

from sssd.__main__ import COMMANDS, main

for words in (*([command] for command in COMMANDS), ["train", "coco"], ["data", "check"]):
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        main([*words, "--help"])
    assert "usage:" in said.getvalue(), words
    slow = {"PIL", "matplotlib", "numpy", "onnx", "rich", "scipy", "torch", "torchvision"}
    print(*words, *slow & sys.modules.keys(), sep=", ")
"""


def test_help_imports_nothing_that_takes_seconds() -> None:
    result = subprocess.run(
        [sys.executable, "-c", HELP], capture_output=True, text=True, check=True
    )
    commands = [*COMMANDS, "train, coco", "data, check"]
    assert result.stdout.splitlines() == commands

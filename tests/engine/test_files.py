"""Files appear whole, links stay, and what is no file is never replaced by one."""

import os
import threading
from pathlib import Path

import pytest

from sssd.engine.files import RunError, require_place, write_text


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there/real.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    require_place("--out", pipe)
    write_text(pipe, "numbers")
    reader.join(10)
    assert read == ["numbers"]
    assert pipe.is_fifo()


def test_a_device_stays_one(tmp_path: Path) -> None:
    null = tmp_path / "null"
    null.symlink_to(os.devnull)  # whoever runs this as root could replace the machine's own
    require_place("--out", null)
    write_text(null, "nothing")
    assert Path(os.devnull).is_char_device()
    write_text(Path("/dev/stderr"), "")
    assert Path("/dev/stderr").is_symlink()


@pytest.mark.parametrize("name", ["", "file/below", "proc"])
def test_a_place_that_cannot_be_written_is_named_beforehand(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = Path("/proc/nothing/there") if name == "proc" else tmp_path / name
    if name == "proc":
        with pytest.raises(RunError, match="/proc/nothing/there cannot be written"):
            write_text(path, "")
        return
    with pytest.raises(ValueError, match=r"--out: .*(is a folder; name a file|cannot be written)"):
        require_place("--out", path)

"""Files appear whole, links stay, and what is no file is never replaced by one."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sssd.engine.files import OF_A_RUN, RunError, require_place, write_text


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there/real.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    require_place("--out", loop)
    write_text(loop, "new")
    assert loop.read_text() == "new"


def test_what_a_run_leaves_is_known_and_not_written_over(
    finished_run: Path, tmp_path: Path
) -> None:
    left = {path.name for path in finished_run.iterdir() if path.is_file()}
    assert left <= {*OF_A_RUN}
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    for name in left - {"report.html"}:
        link = tmp_path / f"link to {name}"
        link.symlink_to(run / name)
        for path in (run / name, link):
            with pytest.raises(ValueError, match="belongs to the run in this folder"):
                require_place("--out", path)
    require_place("--report", run / "report.html")


def test_what_is_printed_to_the_same_place_stays(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from sssd.engine.files import write_text\n"
        "print('before'); write_text(Path('/dev/stdout'), 'numbers\\n'); print('after')"
    )
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert sorted((tmp_path / "out").read_text().split()) == ["after", "before", "numbers"]


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


@pytest.mark.parametrize("name", ["", "file/below"])
def test_a_place_that_cannot_be_written_is_named_beforehand(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"--out: .*(is a folder; name a file|cannot be written)"):
        require_place("--out", tmp_path / name)
    with pytest.raises(RunError, match="cannot be written"):
        write_text(tmp_path / name, "")


def test_a_folder_is_made_with_its_file_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "new/folder/file.json"
    require_place("--out", path)
    assert [*tmp_path.iterdir()] == []
    write_text(path, "{}")
    assert path.read_text() == "{}"


def test_what_a_killed_process_left_is_removed_and_what_a_running_one_writes_is_not(
    tmp_path: Path,
) -> None:
    killed, running = (tmp_path / f".a.json.{n}.tmp" for n in (2**30, os.getppid()))
    for path in (killed, running):
        path.touch()
    write_text(tmp_path / "a.json", "{}")
    assert [path.name for path in sorted(tmp_path.iterdir())] == [running.name, "a.json"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-be"])
def test_a_data_set_is_not_written_over_in_any_encoding(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_text('{"images": [], "annotations": [], "categories": []}', encoding=encoding)
    with pytest.raises(ValueError, match="holds a data set"):
        require_place("--json", path)

"""Where a training may begin: not on what somebody else, or another run, has left."""

import shutil
from pathlib import Path

import pytest

import sssd
from sssd.engine.folder import new_folder
from tests.tiny import QUIET


def test_a_folder_of_a_comparison_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").touch()
    with pytest.raises(ValueError, match="is the folder of a comparison"):
        sssd.fit("small", tmp_path, console=QUIET)


def test_a_run_that_has_ended_is_not_written_over_without_its_checkpoints(
    finished_run: Path, tmp_path: Path
) -> None:
    """As short runs never had any, and as those of sssd.compare lose them."""
    copy = shutil.copytree(finished_run, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints")
    (copy / "model.safetensors").write_bytes(before := b"weights")
    with pytest.raises(ValueError, match=r"--out: .*copy holds config.json, metrics.jsonl, .*more"):
        sssd.fit("demo", copy)
    (copy / "model.safetensors").rename(tmp_path / "model.safetensors")  # moved elsewhere
    with pytest.raises(ValueError, match=r"--out: .*copy holds config.json, metrics.jsonl, .*more"):
        sssd.fit("demo", copy)
    (tmp_path / "model.safetensors").rename(copy / "model.safetensors")
    assert (copy / "model.safetensors").read_bytes() == before
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"--out: .*file is a file; name a folder"):
        sssd.fit("demo", tmp_path / "file")


@pytest.mark.parametrize("name", ["config.json", "report.html", "best.safetensors"])
def test_files_of_somebody_else_are_not_written_over(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=rf"--out: .* holds {name}, which would be overwritten"):
        sssd.fit("demo", tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [new_folder("small") for _ in range(3)]
    assert len(set(folders)) == 3
    assert all(folder.is_dir() for folder in folders)

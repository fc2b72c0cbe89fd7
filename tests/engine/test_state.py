"""Checkpoints survive what happens to files."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sssd.engine.files import RunError, write_atomically
from sssd.engine.state import checkpoints, load_latest, save_checkpoint


@pytest.fixture
def full_disk() -> Iterator[None]:
    """A real refusal by the operating system: no file may grow beyond 1000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for iteration in (5, 10, 15):
        save_checkpoint(tmp_path, iteration, {"iteration": iteration})
    assert [path.name for path in checkpoints(tmp_path)] == ["00000010.pt", "00000015.pt"]
    assert load_latest(tmp_path) == {"iteration": 15}


def test_a_truncated_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 5, {"iteration": 5, "weights": torch.zeros(1000)})
    save_checkpoint(tmp_path, 10, {"iteration": 10, "weights": torch.zeros(1000)})
    newest = checkpoints(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:2000])
    with pytest.warns(UserWarning, match=r"00000010\.pt cannot be read"):
        found = load_latest(tmp_path)
    assert found is not None
    assert found["iteration"] == 5


def test_a_run_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert load_latest(tmp_path) is None


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_names_the_file_and_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"old")
    with pytest.raises(RunError, match=r"weights\.pt cannot be written.*unchanged"):
        write_atomically(path, lambda file: torch.save({"w": torch.zeros(10_000)}, file))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["weights.pt"]


def test_a_second_ctrl_c_while_a_file_is_saved_is_no_full_disk(tmp_path: Path) -> None:
    def save(file: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:  # as torch's writer of zip files
            raise RuntimeError("[enforce fail at inline_container.cc:672] unexpected pos 4 vs 2")

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "weights.pt", save)
    assert not [*tmp_path.iterdir()]


def test_an_error_that_is_not_the_disk_s_passes(tmp_path: Path) -> None:
    """As torch's about a killed worker, which arrives anywhere."""

    def save(file: object) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    with pytest.raises(RuntimeError, match="worker") as raised:
        write_atomically(tmp_path / "weights.pt", save)
    assert type(raised.value) is RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_of_a_file_goes_when_it_is_written_again(tmp_path):
    left, other = tmp_path / f".a[1].pt.{2**30}.tmp", tmp_path / ".b.pt.7.tmp"
    left.touch()
    other.touch()
    write_atomically(tmp_path / "a[1].pt", lambda file: file.write(b"whole"))
    assert {path.name for path in tmp_path.iterdir()} == {"a[1].pt", other.name}


def test_a_damaged_checkpoint_is_not_one_of_the_two_that_are_kept(tmp_path: Path) -> None:
    for iteration in (200, 400):
        save_checkpoint(tmp_path, iteration, {"iteration": iteration})
    checkpoints(tmp_path)[-1].write_bytes(b"cut")
    for iteration in (250, 300):  # the run went on from 200
        save_checkpoint(tmp_path, iteration, {"iteration": iteration})
    assert [path.stem for path in checkpoints(tmp_path)] == ["00000250", "00000300"]


def test_what_is_no_checkpoint_is_passed_over(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 5, {"iteration": 5})
    torch.save([1, 2], tmp_path / "checkpoints" / "00000010.pt")
    with pytest.warns(UserWarning, match=r"00000010\.pt cannot be read"):
        assert load_latest(tmp_path) == {"iteration": 5}

"""A folder that somebody works in is refused to others."""

import subprocess
import sys
from pathlib import Path

import pytest

from sssd.engine import lock
from sssd.engine.files import RunError
from sssd.engine.lock import alone_in

HOLD = """
import sys, time
from pathlib import Path
from sssd.engine.lock import alone_in

with alone_in(Path(sys.argv[1]), "training"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_at_a_time_is_at_work_in_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = pytest.raises(ValueError, match="another training is at work")
    monkeypatch.setattr(lock, "PATIENCE", 0.0)
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with refused, alone_in(tmp_path, "training"):
            pass
        holder.kill()
    own = alone_in(tmp_path, "training")  # the lock has ended with its process
    with own, refused, alone_in(tmp_path, "training"):  # another thread's, say
        pass
    assert not [*tmp_path.iterdir()]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(RunError, match=r"file/run cannot be written.*--out"),
        alone_in(tmp_path / "file" / "run", "training"),
    ):
        pass

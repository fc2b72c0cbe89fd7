"""The folder of a run: whether a training may begin or go on there, and a new one."""

import itertools
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from sssd.commands import to_resume
from sssd.engine.files import NUMBERS, OF_A_RUN, WEIGHTS
from sssd.engine.log import read_metrics
from sssd.engine.record import read_record
from sssd.engine.state import checkpoints


def check_folder(folder: Path | None, resume: bool) -> None:
    """Refuses to mix a new run with what is there, or to go on where there is no run.

    Args:
        folder: of the run; None for a new one.
        resume: whether a run goes on.

    Raises:
        ValueError: names the folder, and what it holds or lacks.
    """
    if folder is None:
        if resume:
            raise ValueError("resume: name a run's folder with out")
        return
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out: {folder} is a file; name a folder")
    if (folder / "plan.json").exists():
        raise ValueError(f"--out: {folder} is the folder of a comparison; choose another one")
    there = bool(checkpoints(folder))
    if resume:
        if not there:
            raise ValueError(f"resume: {folder} holds no checkpoint; name a run's folder with out")
        return
    if there:
        raise ValueError(
            f"{folder} already holds a run: resume it with `python -m sssd.train "
            f"{to_resume(folder)}` (in Python: resume=True), or choose another --out"
        )
    held = [name for name in OF_A_RUN if (folder / name).exists()]
    if held and not _has_hardly_begun(folder):
        raise ValueError(
            f"--out: {folder} holds {', '.join(held[:3])}{' and more' * (len(held) > 3)}, which "
            "would be overwritten; choose another folder"
        )


def _has_hardly_begun(folder: Path) -> bool:
    """Whether a run was killed there before its first checkpoint: it may begin again."""
    try:
        before_checkpoint = int(read_record(folder)["engine"]["checkpoint_every"])
    except (ValueError, KeyError, TypeError, OSError):  # not of a run
        return False
    rows = read_metrics(folder)
    done = rows[-1]["iteration"] if rows else 0
    ended = any((folder / name).exists() for name in (NUMBERS, WEIGHTS))
    return done <= before_checkpoint and not ended


def new_folder(recipe: str) -> Path:
    """A folder of its own, also for runs that begin in the same second."""
    name = f"{recipe}-{datetime.now():%Y%m%d-%H%M%S}"
    for ending in itertools.chain([""], (f"-{i}" for i in itertools.count(2))):
        with suppress(FileExistsError):
            folder = Path("runs") / (name + ending)
            folder.mkdir(parents=True)
            break
    return folder

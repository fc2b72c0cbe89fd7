"""Programs that torchrun starts, as a user does, and the processes that belong to one."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def torchrun(*arguments: str | Path) -> subprocess.Popen[str]:
    """Starts two processes of a program."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def children(process: int) -> list[int]:
    """Numbers of the processes that one has started."""
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return []
    return [int(number) for number in text.split()]


def family(process: int) -> list[int]:
    """A process and all that were started below it."""
    return [process, *(member for child in children(process) for member in family(child))]

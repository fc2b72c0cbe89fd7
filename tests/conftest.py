"""What tests of several folders share."""

import ctypes
import fcntl
import os
import signal
import time
import warnings
from pathlib import Path

import pytest

# Read when torch is loaded, here and in what tests start. Test processes share the cores: threads
# that spin while they wait for one another made a training step 25 times as long.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}

import torch

from tests.torchrun import family

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def pytest_sessionstart(session: pytest.Session) -> None:
    """Lets what outlives its parent, in any test process, become the first one's child."""
    if session.config.pluginmanager.hasplugin("dsession"):  # it has pytest-xdist's processes
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the slow ones first: no worker is left with one of them at the end."""
    items.sort(key=lambda item: "slow" not in item.keywords)


@pytest.hookimpl(trylast=True)  # behind pytest-xdist, which ends its processes
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails a session of several processes that leaves another behind, and ends that."""
    if not session.config.pluginmanager.hasplugin("dsession"):
        return
    until = time.monotonic() + 20
    while (left := _left()) and time.monotonic() < until:
        time.sleep(0.1)
    for process, command in left.items():
        print(f"\nleft behind by the tests: process {process}, {command}")
        os.kill(process, signal.SIGKILL)
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _left() -> dict[int, str]:
    """Processes that this one, or any below it, has started: their commands by number."""
    left = {}
    for process in family(os.getpid())[1:]:
        try:
            command = Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
        except OSError:  # it has ended meanwhile
            continue
        if command:  # a zombie has none
            left[process] = command
    return left


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data, which is no part of the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SSSD_DATA") or beside)
    if not folder.is_dir():
        pytest.skip(f"no real data: SSSD_DATA is not set, or there is no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of `make_run`, trained once for all test processes. Nobody changes it."""
    from tests.runs import make_run

    folder = tmp_path_factory.getbasetemp()
    folder = (folder if worker_id == "master" else folder.parent) / "finished run"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with warnings.catch_warnings():  # a command has its own way to show them
                make_run(folder)
    return folder / "run"


@pytest.fixture(autouse=True)
def _same_start_every_time() -> None:
    """What a test draws, and on how many threads, must not depend on what its worker ran before."""
    torch.set_num_threads(1)
    torch.manual_seed(0)

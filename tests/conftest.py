"""What tests of several folders share."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data, which is no part of the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SSSD_DATA") or beside)
    if not folder.is_dir():
        pytest.skip(f"no real data: SSSD_DATA is not set, or there is no folder {folder}")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _one_thread_a_worker() -> None:
    """Threads of several test processes would wait for one another on the cores they share."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_random_numbers_every_time() -> None:
    """What a test draws must not depend on which tests its worker ran before."""
    torch.manual_seed(0)

"""Faults that are planted on purpose are caught; `python -m tests.mutations` plants all."""

from pathlib import Path

import pytest

from tests import mutations


def test_there_is_one_place_for_each_fault() -> None:
    for fault in mutations.FAULTS:
        assert (mutations.ROOT / fault.file).read_text().count(fault.right) == 1, fault.name


@pytest.mark.slow
def test_a_fault_is_caught_and_what_is_none_is_not(tmp_path: Path) -> None:
    mutations.copied(tmp_path)
    (fault,) = (f for f in mutations.FAULTS if f.file == "sssd/schedules.py" and "late" in f.name)
    assert mutations.planted(tmp_path, fault) == mutations.CAUGHT
    assert mutations.planted(tmp_path, fault._replace(wrong=fault.right)) == 0

"""Faults that are planted on purpose are caught; `python -m tests.mutations` plants all."""

from pathlib import Path

import pytest

from tests import mutations


def test_there_is_one_place_for_each_fault() -> None:
    for fault in mutations.FAULTS:
        assert (mutations.ROOT / fault.file).read_text().count(fault.right) == 1, fault.name


@pytest.mark.slow
def test_faults_are_caught_and_what_is_none_is_not(tmp_path: Path) -> None:
    mutations.copied(tmp_path)
    quick = [f for f in mutations.FAULTS if f.file in ("sssd/schedules.py", "sssd/data/coco.py")]
    assert len(quick) == 3
    for fault in quick:
        assert mutations.planted(tmp_path, fault).code == mutations.CAUGHT, fault.name
    harmless = quick[0]._replace(wrong=quick[0].right)
    assert mutations.planted(tmp_path, harmless).code == 0

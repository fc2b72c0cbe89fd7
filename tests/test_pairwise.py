"""The pairwise designs of the other tests leave out no pair."""

import itertools

import pytest

from tests.pairwise import design, pairwise


@pytest.mark.parametrize(
    ("sizes", "most"),
    [([2, 2], 4), ([1, 3], 3), ([13, 4, 2, 4], 54), ([3, 3, 3, 3], 10), ([2] * 8, 8)],
)
def test_every_pair_appears_in_few_rows(sizes: list[int], most: int) -> None:
    rows = design(sizes)
    for f, g in itertools.combinations(range(len(sizes)), 2):
        everything = set(itertools.product(range(sizes[f]), range(sizes[g])))
        assert {(row[f], row[g]) for row in rows} == everything
    assert len(rows) <= most
    assert rows == design(sizes)


def test_marks_and_tuples_are_kept() -> None:
    marked = pytest.param("cpu", marks=pytest.mark.skip)
    names, cases = pairwise(
        backend=[marked, "gpu"], channels__count=[(1, 9), (2, 3)], last=[0, 1]
    ).args
    assert names == "backend,channels,count,last"
    assert {case.values[:3] for case in cases} == {
        (backend, *sizes) for backend in ("cpu", "gpu") for sizes in ((1, 9), (2, 3))
    }
    assert all(bool(case.marks) == (case.values[0] == "cpu") for case in cases)

"""Cases in which every pair of values of any two factors appears, instead of their product.

Nearly every fault of a product of settings shows in one value or in a pair of them; a product of
four factors repeats each pair as often as the others have combinations.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from typing import Any

import pytest

Pair = tuple[int, int, int, int]  # factor, its value, another factor, its value

TRIES = 30  # rows that are weighed against one another; more make designs no smaller here


def design(sizes: list[int], seed: int = 0) -> list[tuple[int, ...]]:
    """Rows of indices of values, the same for the same seed.

    Args:
        sizes: number of values of each factor, at least 1.
        seed: of the order in which factors are filled.

    Returns:
        Rows of `len(sizes)` indices. Each pair of values of any two factors is in one of them.
    """
    draw = random.Random(seed)
    factors = range(len(sizes))
    left: dict[Pair, None] = {  # a dict keeps its order; a set of numbers might not
        (f, a, g, b): None
        for f, g in itertools.combinations(factors, 2)
        for a in range(sizes[f])
        for b in range(sizes[g])
    }

    def pairs(row: dict[int, int]) -> list[Pair]:
        return [(f, row[f], g, row[g]) for f, g in itertools.combinations(sorted(row), 2)]

    def filled(start: Pair) -> dict[int, int]:
        f, a, g, b = start
        row = {f: a, g: b}
        for other in draw.sample(factors, len(sizes)):
            if other not in row:
                values = draw.sample(range(sizes[other]), sizes[other])
                row[other] = max(
                    values, key=lambda v: sum(p in left for p in pairs(row | {other: v}))
                )
        return row

    rows = []
    while left:
        start = next(iter(left))
        best = max(
            (filled(start) for _ in range(TRIES)), key=lambda r: sum(p in left for p in pairs(r))
        )
        for pair in pairs(best):
            left.pop(pair, None)
        rows.append(tuple(best[f] for f in factors))
    return sorted(rows)


def pairwise_rows(*factors: Iterable[Any]) -> list[tuple[Any, ...]]:
    """The rows of a design, of the factors' values."""
    values = [list(given) for given in factors]
    rows = design([len(given) for given in values])
    return [tuple(v[i] for v, i in zip(values, row, strict=True)) for row in rows]


def pairwise(**factors: Iterable[Any]) -> pytest.MarkDecorator:
    """`pytest.mark.parametrize` with a pairwise design of two or more arguments.

    Args:
        factors: values of each argument of the test; a `pytest.param` keeps its marks. Names that
            are joined by `__` take tuples: `channels__count=[(1, 9), (37, 12)]`.
    """
    kind = type(pytest.param())
    params = ([v if isinstance(v, kind) else pytest.param(v) for v in g] for g in factors.values())
    cases = []
    for row in pairwise_rows(*params):
        arguments, marks = [], []
        for name, param in zip(factors, row, strict=True):
            arguments += param.values[0] if "__" in name else param.values
            marks += param.marks
        label = "-".join(str(p.id or p.values[0]).removeprefix("torch.") for p in row)
        cases.append(pytest.param(*arguments, marks=marks, id=label))
    return pytest.mark.parametrize(",".join(factors).replace("__", ","), cases)

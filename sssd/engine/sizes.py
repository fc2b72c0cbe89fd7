"""Another image size for a trained detector, and whole numbers within their limits."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIDES = 32, 10_000  # pixels: the shortest and the longest side that `image_size` takes


@contextmanager
def image_size(detector: Any, min_size: int | None, max_size: int | None) -> Iterator[None]:
    """Lets a detector see images at another size.

    Args:
        detector: one of torchvision's, whose own size comes back at the end.
        min_size: short side in pixels; by default its own, or what keeps the ratio to the other.
        max_size: longest side; an image whose longer side would exceed it becomes smaller.

    Raises:
        ValueError: a side below 32 or above 10,000 pixels, or the longest shorter than the short.
    """
    require_number("min_size", min_size, *SIDES)
    require_number("max_size", max_size, *SIDES)
    transform: Any = detector.model.transform
    own = transform.min_size, transform.max_size
    short, longest = own[0][-1], own[1]
    if min_size is None:
        min_size = short if max_size is None else round(short * max_size / longest)
    elif max_size is None:
        max_size = round(longest * min_size / short)
    max_size = longest if max_size is None else max_size
    if max_size < min_size:
        raise ValueError(f"max_size is {max_size}, less than min_size, which is {min_size}")
    transform.min_size, transform.max_size = (min_size,), max_size
    try:
        yield
    finally:
        transform.min_size, transform.max_size = own


def require_number(name: str, value: Any, least: int, most: float = math.inf) -> None:
    """Refuses what is no whole number from `least` to `most`, or None."""
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; it must be a whole number")
    if not least <= value <= most:
        limit = f" and at most {most}" if most < math.inf else ""
        raise ValueError(f"{name} is {value}; it must be at least {least}{limit}")

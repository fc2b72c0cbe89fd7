"""Packages that import a name when it is first asked for (PEP 562).

What a command line shows must be there without torch, which takes seconds to import.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def names_of(
    namespace: Mapping[str, Any], places: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and the `__dir__` of a package.

    Args:
        namespace: its `globals()`.
        places: module -> the names that the package takes from it, with spaces between them.
    """
    place_of = {name: place for place, names in places.items() for name in names.split()}

    def get(name: str) -> Any:
        if name not in place_of:
            raise AttributeError(f"module {namespace['__name__']!r} has no attribute {name!r}")
        return getattr(import_module(place_of[name]), name)

    return get, lambda: sorted({*namespace, *place_of})

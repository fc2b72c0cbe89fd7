"""Where the images and class names of a YOLO or darknet data set are said to be."""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from sssd.data.faults import DataError, Fault
from sssd.data.files import (
    ENDINGS,
    Files,
    choose_split,
    folders_of_images,
    locate,
    split_named,
)
from sssd.data.text import lines_of, read_text, require_known

YAML = (".yaml", ".yml")
MOST_CLASSES = 100_000
SHORT = reprlib.Repr()  # of what a message shows, however much it is
SHORT.maxlevel = 2
NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt", "class.names")


@dataclass
class Source:
    """What belongs to one part of a data set.

    Args:
        images: its image files, in order.
        classes: names in index order.
        keypoints: number of values of keypoints after each box; None: not stated.
        faults: images that a list names and that are nowhere.
    """

    images: list[Path]
    classes: list[str]
    keypoints: int | None = None
    faults: list[Fault] = field(default_factory=list)


def find_source(root: Path, split: str) -> Source:
    """Find the images of a part and the names of all classes.

    Raises:
        DataError: what is missing, or says two things.
    """
    if root.is_dir():
        root = description(root) or root
    if root.suffix in YAML:
        return _of_yaml(root, split)
    faults: list[Fault] = []
    if root.suffix == ".data":
        entries = dict(_entries(read_text(root)))
        key = _key(entries, split, root)
        images = _images(root, entries[key], [root.parent], faults)
        names = locate(entries.get("names", ""), [root.parent])
        classes = _names_near([root.parent], root) if names is None else _name_file(names)
    elif root.is_file():
        images = _listed(root, [root.parent], faults)
        classes = _names_near([root.parent], root)
    else:
        files = Files(root)
        images = _part(files, split, faults)
        places = [root, *dict.fromkeys(path.parent for path in images)]
        places += [place.parent / "labels" / place.name for place in places[1:]]
        places += [root / "labels", *(place.parent / "labels" for place in places[1:])]
        classes = _names_near([*places, root.parent], root)
    return Source(images, classes, faults=faults)


def description(root: Path) -> Path | None:
    """Give the one data.yaml or obj.data of a folder; None if it has none.

    Raises:
        DataError: there are several.
    """
    endings = (*YAML, ".data")
    found = [path for path in sorted(root.iterdir()) if path.suffix in endings and _is_data(path)]
    usual = [path for path in found if path.stem in ("data", "dataset")]
    if len(usual or found) > 1:
        names = ", ".join(path.name for path in usual or found)
        raise DataError(f"{root}: several files describe it ({names}); give one of them")
    return next(iter(usual or found), None)


def _is_data(path: Path) -> bool:
    lines = lines_of(read_text(path)) if path.is_file() else []
    return any(line.strip(" {\"'").startswith(("names", "nc")) for line in lines)


def _entries(text: str) -> list[tuple[str, str]]:
    """Give the "key = value" lines of darknet's obj.data."""
    pairs = (line.split("=", 1) for line in lines_of(text) if "=" in line)
    return [(key.strip(), value.strip()) for key, value in pairs if value.strip()]


def _key(entries: dict[str, Any], split: str, path: Path) -> str:
    filled = [key for key, value in entries.items() if value not in ("", [])]
    key = choose_split(filled, split, path)
    if key is None:
        raise DataError(f"{path}: it has no images: no train, val or test")
    return key


def _of_yaml(path: Path, split: str) -> Source:
    entries = _load(path)
    key = _key(entries, split, path)
    parent = path.parent
    # Ultralytics takes `path` from its own folder of data sets: where the yaml lies, it may be off.
    stated = entries.get("path", "")
    bases = [parent / stated.replace("\\", "/"), parent] if isinstance(stated, str) else [parent]
    faults: list[Fault] = []
    written = entries[key] if isinstance(entries[key], list) else [entries[key]]
    images: list[Path] = []
    for entry in written:
        if not isinstance(entry, str):
            raise DataError(
                f"{path}: {key} must be a folder, a list of images or several: {SHORT.repr(entry)}"
            )
        images += _images(path, entry, bases, faults)
    shape, keypoints = entries.get("kpt_shape"), None
    if shape is not None:
        if not isinstance(shape, list) or not all(str(value).isdecimal() for value in shape):
            raise DataError(f"{path}: kpt_shape must be [POINTS, VALUES], not {SHORT.repr(shape)}")
        keypoints = math.prod(map(int, shape))
    return Source(list(dict.fromkeys(images)), _names(entries, path), keypoints, faults)


def _load(path: Path) -> dict[str, Any]:
    text = read_text(path)
    try:
        # Every scalar stays text: classes may be called yes, no, 1.0 or null.
        document = yaml.load(text, yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError) as error:
        require_known(path, text)
        raise DataError(f"{path}: not a yaml file: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise DataError(f"{path}: not a description of a data set: it has no train, val, names")
    return document


def _names(entries: dict[str, Any], path: Path) -> list[str]:
    """Give the class names of a data.yaml, or refuse what may be read in two ways."""
    names, count = entries.get("names", ""), entries.get("nc")
    if count is not None and not (isinstance(count, str) and count.isdecimal()):
        raise DataError(f"{path}: nc must be the number of classes, not {count!r:.40}")
    if count is not None and (len(count) > 6 or int(count) > MOST_CLASSES):
        raise DataError(f"{path}: nc is {count:.40}; there can be {MOST_CLASSES:,} classes at most")
    if isinstance(names, dict):
        try:
            by_index = {int(key): name for key, name in names.items()}
        except ValueError:
            raise DataError(
                f"{path}: names must be numbered from 0: {SHORT.repr(list(names))}"
            ) from None
        missing = next((n for n in range(len(by_index)) if n not in by_index), None)
        if missing is not None or len(by_index) < len(names):
            what = "two have the same number" if missing is None else f"{missing} has none"
            raise DataError(f"{path}: names must be numbered from 0 without a gap: {what}")
        names = [by_index[key] for key in sorted(by_index)]
    elif names == "" and count is not None:
        names = [f"class_{index}" for index in range(int(count))]
    elif names == "":
        names = _names_near([path.parent], path)
    elif isinstance(names, str):
        if names.isdecimal() or any(sign in names for sign in ",/\\"):
            raise DataError(f"{path}: names must be a list of the classes, not {names!r:.80}")
        names = [names]
    wrong = [name for name in names if not isinstance(name, str) or not name]
    if wrong or not names:
        told = SHORT.repr(wrong[:1] or names)
        raise DataError(f"{path}: names must be a list of the classes; {told} is not")
    if count is not None and int(count) != len(names):
        raise DataError(f"{path}: nc is {count}, but names has {len(names)}; fix one of them")
    require_known(path, "\n".join(names))
    return [name.strip() for name in names]


def _names_near(places: Sequence[Path], root: Path) -> list[str]:
    """Read the class names from a file of names in one of the places, or a data.yaml above."""
    for place in dict.fromkeys(places):
        for name in NAME_FILES:
            if (place / name).is_file():
                return _name_file(place / name)
        if place not in (root, root.parent) or not place.is_dir():
            continue
        if (above := description(place)) is not None and above != root and above.suffix in YAML:
            return _names(_load(above), above)
    raise DataError(
        f"{root}: no class names; write them, one per line, to {places[0] / 'classes.txt'}, or "
        "give the data.yaml that has them"
    )


def _name_file(path: Path) -> list[str]:
    text = read_text(path)
    require_known(path, text)
    names = [line.strip() for line in lines_of(text.rstrip())]
    if "" in names:
        line = names.index("") + 1
        raise DataError(
            f"{path}: line {line} is empty; is a class missing, or should the line be deleted?"
        )
    return names


def _part(files: Files, split: str, faults: list[Fault]) -> list[Path]:
    """Give the images of a folder: those of a split's folder or list, or all."""
    images = files.images()
    folders = {name for path in images for name in files.within(path)}
    lists = {p.stem: p for p in files.ending(".txt") if split_named(p.stem) or p.stem == split}
    lists = {name: path for name, path in lists.items() if _is_list(path)}
    if lists and split not in folders and not any(map(split_named, folders)):
        chosen = choose_split(lists, split, files.root)
        assert chosen is not None
        return _listed(lists[chosen], [lists[chosen].parent, files.root], faults)
    part = files.split(images, split)
    return images if part is None else part


def _is_list(path: Path) -> bool:
    first = read_text(path).strip().split("\n", 1)[0].strip(" \r\"'")
    return Path(first).suffix.lower() in ENDINGS


def _images(source: Path, entry: str, bases: list[Path], faults: list[Fault]) -> list[Path]:
    """Give the images that an entry of a description names: a folder or a list."""
    found = locate(entry, bases)
    if found is None:
        near = folders_of_images(source.parent)
        raise DataError(f"{source}: it names {entry}, but {bases[0] / entry} does not exist{near}")
    if found.is_file():
        return _listed(found, [found.parent, *bases], faults)
    images = Files(found).images()
    if not images:
        near = folders_of_images(source.parent)
        raise DataError(f"{source}: no images in the folder {found} that it names{near}")
    return images


def _listed(path: Path, bases: list[Path], faults: list[Fault]) -> list[Path]:
    images: dict[Path, None] = {}
    for number, line in enumerate(lines_of(read_text(path)), start=1):
        if not line.strip():
            continue
        found = locate(line, bases)
        if found is None or not os.path.isfile(found):
            message = f"{line.strip()} does not exist below {bases[-1]}"
            faults.append(Fault("missing image", str(path), f"image on line {number}", message))
        elif found in images:
            message = f"{line.strip()} is listed more than once; it counts once"
            record = f"image on line {number}"
            faults.append(Fault("image listed twice", str(path), record, message, "note"))
        else:
            images[found] = None
    return list(images)

"""Where the json file of a COCO data set lies, and its images."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from sssd.data.faults import DataError, Id
from sssd.data.files import (
    ENDINGS,
    IMAGE_FLAGS,
    Files,
    choose_split,
    folders_of_images,
    split_named,
)

# How the file begins that `predict` writes: not as json.dump lays it out, for one that was edited.
MARK = '{\n"info": {"description": "sssd.predict"},\n'


def is_coco(path: Path) -> bool:
    text = path.read_bytes()
    if b"\0" in text[:4]:  # UTF-16 or UTF-32: the words that are looked for are ASCII
        text = text.replace(b"\0", b"")
    return all(f'"{key}"'.encode() in text for key in ("images", "annotations", "categories"))


def refuse_to_overwrite(flag: str, path: Path | None) -> None:
    """Refuse to write over what may be somebody's data.

    Raises:
        DataError: the file is there, and is an image or a COCO data set.
    """
    if path is None or not path.is_file():
        return
    is_image = path.suffix.lower() in ENDINGS
    if is_image or (is_coco(path) and not path.read_bytes().startswith(MARK.encode())):
        what = "is an image" if is_image else "holds a data set"
        raise DataError(f"{flag}: {path} {what}, which would be overwritten; choose another name")


def find_json(files: Files, split: str) -> Path:
    """Give the json file of a part: by its own name or by its folder's."""
    found = {path: _parts_named(path, files) for path in files.ending(".json") if is_coco(path)}
    if not found:
        raise DataError(
            f"{files.root}: it has no json file with images, annotations and categories"
        )
    named = {name for names in found.values() for name in names}
    if (part := choose_split(named, split, files.root)) is not None:
        found = {path: names for path, names in found.items() if part in names}
    boxes = [path for path in found if path.stem.startswith("instances")] or list(found)
    if len(boxes) == 1:
        return boxes[0]
    raise DataError(f"{files.root}: give one of its json files: {', '.join(map(str, boxes[:5]))}")


def _parts_named(path: Path, files: Files) -> set[str]:
    words = [*re.split(r"[^A-Za-z0-9]+", path.stem), *files.within(path), path.stem]
    return {word for word in words if split_named(word)} | {path.stem}


def find_images(
    path: Path, images: str | Path | None, entries: dict[Id, dict[str, Any]]
) -> tuple[Path, dict[Id, str]]:
    """Give the folder of the images, and each file's name in it.

    Raises:
        DataError: no place holds any of them, or two hold as many.
    """
    names = {key: entry["file_name"].replace("\\", "/") for key, entry in entries.items()}
    if images is not None and not Path(images).is_dir():
        raise DataError(f"{images}: the folder of the images of {path} does not exist")
    part = path.stem.removeprefix("instances_")
    above = path.parent.parent
    usual = [above / part] if path.parent.name == "annotations" else []
    places = [Path(images)] if images is not None else [*usual, path.parent]
    if images is None:
        places += [above] * bool(usual)
        for base in (path.parent, above) if path.parent.name == "annotations" else (path.parent,):
            places += [base / "images" / part, base / "images", base / "data", base / part]
    short = {key: name.rsplit("/", 1)[-1] for key, name in names.items()}
    forms = [names] + [short] * (len(set(short.values())) == len(set(names.values())))
    parts = {split_named(word) for name in names.values() for word in name.split("/")[:-1]}
    for form in forms:
        sample = list(form.values())[:: len(form) // 200 + 1]
        counts = {
            place: sum(os.path.isfile(place / name) for name in sample)
            for place in dict.fromkeys(places)
            if form is names or not _contradict(parts, place)
        }
        most = max(counts.values(), default=0)
        best = [p for p, n in counts.items() if n == most or (n and p in usual)]
        if most and len(best) > 1 and best[0] not in [*usual, path.parent]:
            found = " and in ".join(map(str, best))
            raise DataError(
                f"{path}: images with these names exist in {found}; choose with {IMAGE_FLAGS}"
            )
        if most:
            return best[0], form
    if images is not None:
        return Path(images), names  # each is named as missing
    tried = " nor in ".join(map(str, dict.fromkeys(places[:2])))
    raise DataError(
        f"{path}: its images were not found in {tried}; give their folder with "
        f"{IMAGE_FLAGS}{folders_of_images(path.parent)}"
    )


def _contradict(parts: set[str | None], place: Path) -> bool:
    """Whether images of one split would be looked for in the folder of another."""
    own = {split_named(word) for word in place.parts} - {None}
    return bool(own and parts - {None}) and not own & parts

"""Any data set by its path."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from pathlib import Path
from typing import get_args

from sssd.data.coco import read_coco
from sssd.data.coco_files import find_json, is_coco
from sssd.data.dataset import DetectionDataset
from sssd.data.faults import DataError
from sssd.data.files import SPLIT_FLAGS, Files, split_named
from sssd.data.settings import Format, require_range
from sssd.data.text import read_text
from sssd.data.voc import read_voc
from sssd.data.yolo import is_label, read_yolo
from sssd.data.yolo_files import NAME_FILES, description

FORMAT_FLAGS = "--format, in training --data.format"
KNOWN = "a COCO json, or a folder (or data.yaml) of COCO, VOC xml or YOLO txt files"
SAMPLE = 50  # files of a kind that are looked into to know a folder's format
YOLO_FILES = (".yaml", ".yml", ".data", ".txt")
INSIDE = ("images", "labels", "annotations", "jpegimages", "imagesets", "main")


def read_dataset(
    path: str | Path,
    images: str | Path | None = None,
    split: str = "train",
    format: Format | None = None,
    pixel_range: tuple[float, float] | None = None,
) -> DetectionDataset:
    """Read a data set of any format.

    Args:
        path: a COCO json, a data.yaml or obj.data of YOLO, or the folder of a data set as the usual
            tools export it (see `read_coco`, `read_voc`, `read_yolo`).
        images: folder of the images, if it is not where the format usually has it (COCO, VOC).
        split: which split of a folder or data.yaml, by any of its usual names ("val" also finds
            valid/); data without splits are used whole.
        format: None: detected from the path.
        pixel_range: values of black and white in images with more than 8 bits (see `read_image`).

    Returns:
        The dataset.

    Raises:
        DataError: the path does not exist or its format is not known, or as the readers raise.
        ValueError: a pixel range that is none.
    """
    require_range("pixel_range", pixel_range)
    dataset = _read(Path(path), images, split, format)
    dataset.pixel_range = pixel_range and (pixel_range[0], pixel_range[1])  # json has lists
    return dataset


def _read(
    path: Path, images: str | Path | None, split: str, format: Format | None
) -> DetectionDataset:
    if not path.exists():
        raise DataError(f"{path}: this file or folder does not exist{_alike(path)}")
    kind = format or _format_of(path)
    if kind in ("voc", "yolo") and path.is_file() and path.suffix.lower() == ".json":
        raise DataError(f"{path}: a json file is of the format coco, not {kind} ({FORMAT_FLAGS})")
    if kind == "coco":
        if path.is_dir():
            path = find_json(Files(path), split)
        elif split not in ("train", "val"):
            raise DataError(
                f"{path}: a json file is one split, and {split!r} is in another file; "
                f"{SPLIT_FLAGS} are for folders and a data.yaml"
            )
        return read_coco(path, images)
    if kind == "voc":
        return read_voc(path, split, images)
    if kind != "yolo":
        known = ", ".join(get_args(Format))
        raise ValueError(f"format is {kind!r}; it must be one of {known}, or None")
    if images is not None:
        raise DataError(
            f"{images}: for a YOLO data set, its data.yaml or folder defines where the images are"
        )
    return read_yolo(path, split)


def _format_of(path: Path) -> Format:
    if path.is_file():
        ending = path.suffix.lower()
        if ending == ".json":
            return "coco"
        if ending in YOLO_FILES:
            return "yolo"
        what = {
            ".zip": "unpack it, and give its folder",
            ".xml": "give the folder of the xml files",
        }
        raise DataError(f"{path}: this file is no data set; {what.get(ending, 'name ' + KNOWN)}")
    if not path.is_dir():
        raise DataError(f"{path}: neither a file nor a folder; give {KNOWN}")
    formats = _formats_in(path)
    if len(formats) == 1:
        return formats[0]
    if formats:
        raise DataError(
            f"{path}: it holds annotations of {' and '.join(formats)}; choose with {FORMAT_FLAGS}"
        )
    kinds = Counter(file.suffix.lower() or "no suffix" for file in Files(path).paths)
    held = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common(4)) or "nothing"
    raise DataError(f"{path}: no data set: neither {KNOWN} (it holds {held}){_near(path)}")


def _formats_in(path: Path) -> list[Format]:
    files = Files(path)
    formats: list[Format] = []
    if any(map(is_coco, files.ending(".json")[:SAMPLE])):
        formats.append("coco")
    if any(map(_is_voc, files.ending(".xml")[:SAMPLE])):
        formats.append("voc")
    if description(path) or any(map(is_label, files.ending(".txt")[:SAMPLE])):
        formats.append("yolo")
    if not formats and files.images() and any(file.name in NAME_FILES for file in files.paths):
        formats.append("yolo")  # of empty label files
    return formats


def _is_voc(path: Path) -> bool:
    return re.search(r"<annotation[\s>]", read_text(path)) is not None


def _alike(path: Path) -> str:
    """Name what lies where a path does not, and is called nearly so."""
    above = next(folder for folder in (path, *path.parents) if folder.exists())
    missing = path.relative_to(above).parts[0]
    names = [other.name for other in above.iterdir()] if above.is_dir() else []
    close = difflib.get_close_matches(missing, names, n=1)
    return f"; {above / close[0]} does" if close else ""


def _near(path: Path) -> str:
    """Name a folder near a path that would do, for a message."""
    inside = path.name.lower() in INSIDE or split_named(path.name)
    above = [path.absolute().parent, path.absolute().parent.parent] if inside else []
    below = [folder for folder in sorted(path.iterdir()) if folder.is_dir()][:SAMPLE]
    for folder in (*below, *above):
        if len(folder.parts) > 1 and _formats_in(folder):
            return f"; {folder} is one"
    return ""

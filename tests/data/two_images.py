"""Two images, a.jpg with a dog and b.jpg with a cat, and files about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

WIDTH, HEIGHT = 64, 48
DOG, CAT = [8, 12, 40, 36], [24, 0, 40, 24]  # xyxy
DOG_LINE, CAT_LINE = "1 0.375 0.5 0.5 0.5\n", "0 0.5 0.25 0.25 0.5\n"
NAMES = "cat\ndog\n"
PHOTO = object()  # an image file of its own colour


def write(root: Path, files: dict[str, Any]) -> Path:
    """Write a tree of files: texts, bytes, json documents and photographs."""
    for number, (name, content) in enumerate(files.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is PHOTO:
            Image.new("RGB", (WIDTH, HEIGHT), (9 * number, 50, 50)).save(path)
        elif isinstance(content, (bytes, str)):
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        else:
            path.write_text(json.dumps(content))
    return root


def xml(kind: str, filename: str, more: str = "") -> str:
    """An annotation of labelImg."""
    corners = dict(
        zip(("xmin", "ymin", "xmax", "ymax"), DOG if kind == "dog" else CAT, strict=True)
    )
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners.items())
    return f"""<annotation>
    <folder>images</folder><filename>{filename}</filename><path>C:\\data\\{filename}</path>
    <source><database>Unknown</database></source>{more}
    <size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>
    <object><name>{kind}</name><pose>Unspecified</pose><difficult>0</difficult>
    <bndbox>{box}</bndbox></object></annotation>"""


def coco(*pairs: tuple[str, str], first: int = 1, **more: object) -> dict[str, Any]:
    """A COCO document of (file name, kind) pairs."""
    boxes = {"dog": DOG, "cat": CAT}
    return {
        "info": {},
        "images": [
            {"id": n, "file_name": name, "width": WIDTH, "height": HEIGHT}
            for n, (name, _) in enumerate(pairs)
        ],
        "categories": [{"id": first, "name": "cat"}, {"id": first + 1, "name": "dog"}],
        "annotations": [
            {
                "id": n + 1,
                "image_id": n,
                "category_id": first + (kind == "dog"),
                "area": (x2 - x) * (y2 - y),
                "bbox": [x, y, x2 - x, y2 - y],
                "segmentation": [],
                "iscrowd": 0,
                **more,
            }
            for n, (_, kind) in enumerate(pairs)
            for x, y, x2, y2 in [boxes[kind]]
        ],
    }


YOLO_SPLIT = {
    "images/train/a.jpg": PHOTO,
    "images/val/b.jpg": PHOTO,
    "labels/train/a.txt": DOG_LINE,
    "labels/val/b.txt": CAT_LINE,
}
ROBOFLOW = {
    "train/images/a.jpg": PHOTO,
    "train/labels/a.txt": DOG_LINE,
    "valid/images/b.jpg": PHOTO,
    "valid/labels/b.txt": CAT_LINE,
    "README.roboflow.txt": "pets - v1\n==========\n",
}
ROBOFLOW_YAML = (
    "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\n"
    "nc: 2\nnames: ['cat', 'dog']\n\nroboflow:\n  workspace: w\n  license: CC BY 4.0\n"
)
CVAT_YOLO = {
    "obj.data": "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\n"
    "names = data/obj.names\nbackup = backup/\n",
    "obj.names": NAMES,
    "train.txt": "data/obj_train_data/a.jpg\n",
    "valid.txt": "data/obj_valid_data/b.jpg\n",
    "obj_train_data/a.jpg": PHOTO,
    "obj_train_data/a.txt": DOG_LINE,
    "obj_valid_data/b.jpg": PHOTO,
    "obj_valid_data/b.txt": CAT_LINE,
}
VOC_SPLIT = {
    "Annotations/a.xml": xml("dog", "a.jpg"),
    "Annotations/b.xml": xml("cat", "b.jpg"),
    "JPEGImages/a.jpg": PHOTO,
    "JPEGImages/b.jpg": PHOTO,
}
FLAT = {"a.jpg": PHOTO, "b.jpg": PHOTO}

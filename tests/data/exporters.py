"""Little data sets as the usual tools export them, all of the same two images.

Every one holds a.jpg with a dog (its training part, where it has parts) and b.jpg with a cat.
"""

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

# What each tool writes, and the path in it that is given (of training and validation data).
SPLIT: dict[str, tuple[dict[str, Any], str, str]] = {
    "Roboflow COCO": (
        {
            "train/_annotations.coco.json": coco(("a.jpg", "dog")),
            "train/a.jpg": PHOTO,
            "valid/_annotations.coco.json": coco(("b.jpg", "cat")),
            "valid/b.jpg": PHOTO,
            "README.roboflow.txt": "pets\n",
        },
        "",
        "",
    ),
    "Roboflow YOLO": ({**ROBOFLOW, "data.yaml": ROBOFLOW_YAML}, "", ""),
    "Roboflow data.yaml": ({**ROBOFLOW, "data.yaml": ROBOFLOW_YAML}, "data.yaml", "data.yaml"),
    "Roboflow YOLO by its parts": ({**ROBOFLOW, "data.yaml": ROBOFLOW_YAML}, "train", "valid"),
    "Roboflow in Colab": (
        {
            **ROBOFLOW,
            "data.yaml": "names:\n- cat\n- dog\nnc: 2\ntrain: /content/pets-1/train/images\n"
            "val: /content/pets-1/valid/images\n",
        },
        "data.yaml",
        "data.yaml",
    ),
    "Roboflow darknet": (
        {
            "train/_darknet.labels": NAMES,
            "train/a.jpg": PHOTO,
            "train/a.txt": DOG_LINE,
            "valid/_darknet.labels": NAMES,
            "valid/b.jpg": PHOTO,
            "valid/b.txt": CAT_LINE,
        },
        "",
        "",
    ),
    "Roboflow VOC": (
        {
            "train/a.jpg": PHOTO,
            "train/a.xml": xml("dog", "a.jpg"),
            "valid/b.jpg": PHOTO,
            "valid/b.xml": xml("cat", "b.jpg"),
        },
        "",
        "",
    ),
    "COCO 2017": (
        {
            "annotations/instances_train2017.json": coco(("a.jpg", "dog")),
            "annotations/captions_train2017.json": coco(("a.jpg", "dog")),
            "annotations/instances_val2017.json": coco(("b.jpg", "cat")),
            "train2017/a.jpg": PHOTO,
            "val2017/b.jpg": PHOTO,
        },
        "",
        "annotations/instances_val2017.json",
    ),
    "COCO under images/": (
        {
            "annotations/instances_train2017.json": coco(("a.jpg", "dog")),
            "annotations/instances_val2017.json": coco(("b.jpg", "cat")),
            "images/train2017/a.jpg": PHOTO,
            "images/val2017/b.jpg": PHOTO,
        },
        "",
        "",
    ),
    "FiftyOne COCO": (
        {
            "train/data/a.jpg": PHOTO,
            "train/labels.json": coco(("a.jpg", "dog")),
            "validation/data/b.jpg": PHOTO,
            "validation/labels.json": coco(("b.jpg", "cat")),
        },
        "",
        "",
    ),
    "Supervisely COCO": (
        {
            "train/annotations/instances.json": coco(("a.jpg", "dog")),
            "train/images/a.jpg": PHOTO,
            "val/annotations/instances.json": coco(("b.jpg", "cat")),
            "val/images/b.jpg": PHOTO,
        },
        "",
        "",
    ),
    "Ultralytics": (
        {
            **YOLO_SPLIT,
            "coco8.yaml": "path: coco8 # dataset root dir\ntrain: images/train\n"
            "val: images/val\ntest: # test images (optional)\nnames:\n  0: cat\n  1: dog\n",
        },
        "coco8.yaml",
        "",
    ),
    "Ultralytics of Windows": (
        {
            **YOLO_SPLIT,
            "data.yaml": "path: C:\\Users\\me\\pets\ntrain: images\\train\n"
            "val: D:\\sets\\pets\\images\\val\nnames: {'0': cat, 1: dog}\n",
        },
        "data.yaml",
        "data.yaml",
    ),
    "folders of folders, empty path": (
        {**ROBOFLOW, "data.yaml": "path:\ntrain: train\nval: [valid]\nnames: [cat, dog]\n"},
        "data.yaml",
        "data.yaml",
    ),
    "lists in a data.yaml": (
        {
            **YOLO_SPLIT,
            "train.txt": "./images/train/a.jpg\n",
            "val.txt": "\ufeffimages\\val\\b.jpg\r\n",
            "data.yaml": "path: ./\ntrain: train.txt\nval: [val.txt]\nnames:\n  0: cat\n  1: dog\n",
        },
        "",
        "data.yaml",
    ),
    "pose": (
        {
            **YOLO_SPLIT,
            "labels/train/a.txt": "1 0.375 0.5 0.5 0.5 0.3 0.4 2 0.5 0.5 1\n",
            "data.yaml": "train: images/train\nval: images/val\n"
            "kpt_shape: [2, 3]\nnames: [cat, dog]\n",
        },
        "data.yaml",
        "data.yaml",
    ),
    "pose, unsaid": (
        {
            **YOLO_SPLIT,
            "labels/train/a.txt": "1 0.375 0.5 0.5 0.5 0.3 0.4 2 0.5 0.5 1\n",
            "classes.txt": NAMES,
        },
        "",
        "",
    ),
    "tracks": (
        {
            **YOLO_SPLIT,
            "labels/train/a.txt": "1 0.375 0.5 0.5 0.5 17\n",
            "labels/val/b.txt": "0 0.5 0.25 0.25 0.5 0.875 4\n",
            "classes.txt": NAMES,
        },
        "",
        "",
    ),
    "oriented boxes": (
        {
            **YOLO_SPLIT,
            "labels/train/a.txt": "1 0.625 0.25 0.625 0.75 0.125 0.75 0.125 0.25\n",
            "labels/val/b.txt": "0 0.375 0 0.625 0 0.625 0.5 0.375 0.5\n",
            "dota8.yaml": "train: images/train\nval: images/val\nnames: [cat, dog]\n",
        },
        "",
        "",
    ),
    "CVAT YOLO 1.1": (CVAT_YOLO, "", "obj.data"),
    "CVAT YOLO without obj.data": (
        {name: file for name, file in CVAT_YOLO.items() if name != "obj.data"},
        "",
        "",
    ),
    "CVAT Ultralytics": (
        {
            **YOLO_SPLIT,
            "train.txt": "data/images/train/a.jpg\n",
            "val.txt": "data/images/val/b.jpg\n",
            "data.yaml": "names:\n  0: cat\n  1: dog\npath: .\ntrain: train.txt\nval: val.txt\n",
        },
        "",
        "",
    ),
    "FiftyOne YOLO": (
        {
            **YOLO_SPLIT,
            "dataset.yaml": "names:\n- cat\n- dog\npath: /home/me/pets\n"
            "train: ./images/train/\nval: ./images/val/\n",
        },
        "",
        "dataset.yaml",
    ),
    "VOC": (
        {
            **VOC_SPLIT,
            "ImageSets/Main/train.txt": "a\n",
            "ImageSets/Main/val.txt": "b\n",
            "SegmentationClass/a.png": PHOTO,
        },
        "",
        "",
    ),
    "CVAT VOC": (
        {
            **VOC_SPLIT,
            "ImageSets/Main/train.txt": '\ufeff"a"\r\n',
            "ImageSets/Main/val.txt": "b.jpg\r\n",
            "labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\n",
        },
        "",
        "",
    ),
    "VoTT VOC": (
        {
            **VOC_SPLIT,
            "ImageSets/Main/cat_train.txt": "a.jpg -1\n",
            "ImageSets/Main/dog_train.txt": "a.jpg 1\n",
            "ImageSets/Main/cat_val.txt": "b.jpg 1\n",
            "ImageSets/Main/dog_val.txt": "b.jpg -1\n",
            "pascal_label_map.pbtxt": "item {\n id: 1\n name: 'cat'\n}\n",
        },
        "",
        "",
    ),
    "VOC in folders of parts": (
        {
            "Annotations/train/a.xml": xml("dog", "a.jpg"),
            "Annotations/val/b.xml": xml("cat", "b.jpg"),
            "images/train/a.jpg": PHOTO,
            "images/val/b.jpg": PHOTO,
        },
        "",
        "",
    ),
}

# Without parts: everything is read.
WHOLE: dict[str, tuple[dict[str, Any], str]] = {
    "labelImg VOC": ({**FLAT, "a.xml": xml("dog", "a.jpg"), "b.xml": xml("cat", "b.jpg")}, ""),
    "labelImg YOLO": ({**FLAT, "classes.txt": NAMES, "a.txt": DOG_LINE, "b.txt": CAT_LINE}, ""),
    "darknet": ({**FLAT, "obj.names": NAMES, "a.txt": DOG_LINE, "b.txt": CAT_LINE}, ""),
    "Label Studio COCO": (
        {
            "result.json": coco(
                ("images\\a.jpg", "dog"), ("images\\b.jpg", "cat"), first=0, ignore=0
            ),
            "images/a.jpg": PHOTO,
            "images/b.jpg": PHOTO,
        },
        "",
    ),
    "Label Studio YOLO": (
        {
            "classes.txt": NAMES,
            "notes.json": {"categories": [{"id": 0, "name": "cat"}], "info": {"year": 2024}},
            "images/a.jpg": PHOTO,
            "images/b.jpg": PHOTO,
            "labels/a.txt": DOG_LINE,
            "labels/b.txt": CAT_LINE,
        },
        "",
    ),
    "Label Studio VOC": (
        {
            "Annotations/a.xml": xml("dog", "a"),
            "Annotations/b.xml": xml("cat", "b"),
            "images/a.jpg": PHOTO,
            "images/b.jpg": PHOTO,
        },
        "",
    ),
    "CVAT COCO": (
        {
            "annotations/instances_default.json": coco(("a.jpg", "dog"), ("b.jpg", "cat")),
            "images/a.jpg": PHOTO,
            "images/b.jpg": PHOTO,
        },
        "",
    ),
    "COCO of another machine": (
        {
            "labels.json": coco(("D:\\pets\\a.jpg", "dog"), ("D:\\pets\\b.jpg", "cat")),
            "photos": "",
            "images/a.jpg": PHOTO,
            "images/b.jpg": PHOTO,
        },
        "labels.json",
    ),
    "Kaggle VOC": (
        {
            "pets/annotations/xmls/a.xml": xml("dog", "a.png"),
            "pets/annotations/xmls/b.xml": xml("cat", "IMG_0001.jpg"),
            "pets/images/a.jpg": PHOTO,
            "pets/images/b.jpg": PHOTO,
            "__MACOSX/pets/images/._a.jpg": "not a photograph",
        },
        "",
    ),
    "FiftyOne VOC": (
        {
            "data/a.jpg": PHOTO,
            "data/b.jpg": PHOTO,
            "labels/a.xml": xml("dog", "a.jpg"),
            "labels/b.xml": xml("cat", "b.jpg"),
        },
        "",
    ),
    "VOC with a stale filename": (
        {**FLAT, "a.xml": xml("dog", "b.jpg"), "b.xml": xml("cat", "a.jpg")},
        "",
    ),
    "makesense": (
        {
            "photos/a.jpg": PHOTO,
            "photos/b.jpg": PHOTO,
            "labels/a.txt": DOG_LINE.replace(" ", "  "),
            "labels/b.txt": CAT_LINE,
            "labels.txt": NAMES,
        },
        "",
    ),
}

"""Little data sets as the usual tools export them, all of the same two images.

Every one holds a.jpg with a dog (its training part, where it has parts) and b.jpg with a cat.
"""

from __future__ import annotations

from typing import Any

from two_images import (
    CAT_LINE,
    CVAT_YOLO,
    DOG_LINE,
    FLAT,
    NAMES,
    PHOTO,
    ROBOFLOW,
    ROBOFLOW_YAML,
    VOC_SPLIT,
    YOLO_SPLIT,
    coco,
    xml,
)

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

"""A corpus of broken data sets: each a good one with one thing wrong, and what the check must say.

Run as a script, it writes all of them to a folder: `python tests/data/broken_files.py FOLDER`.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

from breaking import (
    HEIGHT,
    WIDTH,
    Broken,
    truncate,
    with_annotation,
    with_box,
    with_image,
    with_pages,
    with_pixels,
    with_turned,
)

JSON = "instances_train.json: "
BOX = f"in image 2 of {WIDTH} x {HEIGHT}"

ERRORS = [
    Broken(
        "missing image",
        lambda _, images: (images / "one.jpg").unlink(),
        "one.jpg: image 1: missing image: the file does not exist",
        images=1,
        boxes=2,
    ),
    Broken(
        "no image",
        lambda _, images: (images / "one.jpg").write_text("no photograph"),
        "one.jpg: image 1: unreadable image: cannot identify image file",
        images=1,
        boxes=2,
    ),
    Broken(
        "empty file",
        lambda _, images: (images / "one.jpg").write_bytes(b""),
        "one.jpg: image 1: unreadable image: cannot identify image file",
        images=1,
        boxes=2,
    ),
    Broken(
        "truncated JPEG",
        lambda _, images: truncate(images, "one.jpg"),
        "one.jpg: image 1: unreadable image: image file is truncated",
        images=1,
        boxes=2,
    ),
    Broken(
        "truncated PNG",
        lambda _, images: truncate(images, "two.png"),
        "two.png: image 2: unreadable image: image file is truncated",
        images=1,
        boxes=1,
    ),
    Broken(
        "wrong width",
        with_image(width=65),
        "one.jpg: image 1: wrong size: it is 64 x 48, but ",
        images=1,
        boxes=2,
    ),
    Broken(
        "size before EXIF rotation",
        with_turned((WIDTH, HEIGHT)),
        "turned.jpg: image 1: wrong size: it is 48 x 64, but ",
        images=1,
        boxes=2,
    ),
    Broken(
        "32-bit pixels",
        with_pixels("F", "one.tif"),
        "one.tif: image 1: unreadable image: 32-bit pixels (mode F)",
        images=1,
        boxes=2,
    ),
    Broken(
        "duplicate image id",
        lambda document, _: document["images"].append({**document["images"][1], "id": 1}),
        JSON + "image 1: duplicate image id: the first record with this id is kept",
    ),
    Broken(
        "image without id",
        lambda document, _: document["images"].append({"file_name": "two.png"}),
        JSON + "image number 2: incomplete image: it has no valid 'id'",
    ),
    Broken(
        "image without file name",
        lambda document, _: document["images"].append({"id": 3}),
        JSON + "image number 2: incomplete image: it has no valid 'file_name'",
    ),
    Broken(
        "missing image of unknown size",
        lambda document, _: document["images"].append({"id": 3, "file_name": "three.png"}),
        JSON + "image 3: unknown image size: no width and height, and ",
    ),
    Broken(
        "duplicate category id",
        lambda document, _: document["categories"].append({"id": 7, "name": "bird"}),
        JSON + "category 7: duplicate category id: the first record with this id is kept",
    ),
    Broken(
        "unknown category",
        with_annotation(category_id=3),
        JSON + "annotation 13: unknown category: no category has the id 3",
        boxes=2,
    ),
    Broken(
        "category as text",
        with_annotation(category_id="1"),
        JSON + "annotation 13: unknown category: no category has the id '1'",
        boxes=2,
    ),
    Broken(
        "unknown image",
        with_annotation(image_id=99),
        JSON + "annotation 13: unknown image: no image has the id 99",
        boxes=2,
    ),
    Broken(
        "no box",
        with_annotation(bbox=None),
        JSON + "annotation 13: incomplete annotation: 'bbox' must be four numbers, not None",
        boxes=2,
    ),
    Broken(
        "box of three numbers",
        with_box(1, 2, 3),
        JSON + "annotation 13: incomplete annotation: 'bbox' must be four numbers, not [1, 2, 3]",
        boxes=2,
    ),
    Broken(
        "NaN box",
        with_box(1, 2, math.nan, 4),
        JSON + "annotation 13: NaN box: a coordinate is not a finite number: x 1, y 2, width nan, "
        f"height 4 {BOX}",
        boxes=2,
    ),
    Broken(
        "infinite box",
        with_box(1, 2, 3, math.inf),
        JSON + "annotation 13: NaN box: a coordinate is not a finite number: x 1, y 2, width 3, "
        f"height inf {BOX}",
        boxes=2,
    ),
    Broken(
        "degenerate box",
        with_box(9, 9, 0, 4),
        JSON + f"annotation 13: degenerate box: width or height is zero: x 9, y 9, width 0, "
        f"height 4 {BOX}",
        boxes=2,
    ),
    Broken(
        "inverted box",
        with_box(30, 30, -5, 4),
        JSON + "annotation 13: inverted box: width or height is negative: x 30, y 30, width -5, "
        f"height 4 {BOX}",
        boxes=2,
    ),
    Broken(
        "box outside",
        with_box(70, 9, 5, 4),
        JSON + "annotation 13: box outside: no part of it lies in the image: x 70, y 9, width 5, "
        f"height 4 {BOX}",
        boxes=2,
    ),
    Broken(
        "crowd as a word",
        with_annotation(iscrowd="yes"),
        JSON + "annotation 13: incomplete annotation: 'iscrowd' and 'ignore' must be 0 or 1, not "
        "'yes'",
        boxes=2,
    ),
    Broken(
        "an id beyond 64 bits",
        lambda document, _: document["images"].append({"id": 2**64, "file_name": "two.png"}),
        JSON + f"image {2**64}: incomplete image: its id does not fit into 64 bits; use a smaller",
    ),
    Broken(
        "a file name that is none",
        lambda document, _: document["images"].append({"id": 3, "file_name": "a\0b"}),
        JSON + "image 3: incomplete image: 'a\\x00b' is not a valid file name",
    ),
    Broken(
        "HEIC under another name",
        lambda _, images: (images / "one.jpg").write_bytes(b"\0\0\0\x18ftypheic"),
        "one.jpg: image 1: unreadable image: it is HEIC or similar, which is not supported",
        images=1,
        boxes=2,
    ),
    Broken(
        "box above",
        with_box(7, -9, 5, 4),
        JSON + "annotation 13: box outside: no part of it lies in the image: x 7, y -9, width 5, "
        f"height 4 {BOX}",
        boxes=2,
    ),
]

NOTES = [
    Broken(
        "box over the edge",
        with_box(50, 9, 30, 4),
        JSON + "annotation 13: box over the edge: it is cut at the edge of the image: x 50, y 9, "
        f"width 30, height 4 {BOX}",
    ),
    Broken(
        "annotation id 0",
        with_annotation(id=0),
        JSON + "annotation 0: annotation id 0: pycocotools would treat a match with it as no match",
    ),
    Broken(
        "duplicate annotation id",
        with_annotation(id=12),
        JSON + "annotation 12: duplicate annotation id: 2 records have it",
    ),
    Broken(
        "crowd",
        with_annotation(iscrowd=1),
        JSON + "annotation 13: crowd region: ignored in training, used in evaluation",
    ),
    Broken(
        "image without objects",
        lambda document, _: document["annotations"].pop(0),
        JSON + "image 1: image without objects: it is trained on as background",
        boxes=2,
    ),
    Broken(
        "two categories of one name",
        lambda document, _: document["categories"].append({"id": 8, "name": "cat"}),
        JSON + "category cat: duplicate category name: 2 categories have this name",
    ),
    Broken(
        "EXIF rotation",
        with_turned((HEIGHT, WIDTH)),
        "turned.jpg: image 1: EXIF rotation: orientation 6, rotated upright when it is read",
    ),
    Broken(
        "EXIF orientation 0",
        with_turned((WIDTH, HEIGHT), 0),
        "turned.jpg: image 1: unknown EXIF orientation: 0 is not in 1 to 8: it is read as",
    ),
    Broken(
        "EXIF orientation 65537",
        with_turned((WIDTH, HEIGHT), 65537),
        "turned.jpg: image 1: unknown EXIF orientation: 65537 is not in 1 to 8: it is read as",
    ),
    Broken(
        "text in EXIF orientation",
        with_turned((WIDTH, HEIGHT), "6"),
        "turned.jpg: image 1: unknown EXIF orientation: '6' is not in 1 to 8: it is read as",
    ),
    Broken(
        "box below one pixel",
        with_box(9, 9, 0.5, 4),
        JSON + "annotation 13: box below one pixel: augmentation drops it, evaluation counts "
        f"it: x 9, y 9, width 0.5, height 4 {BOX}",
    ),
    Broken(
        "the same object twice",
        lambda document, _: document["annotations"][1].update(bbox=[1.5, 2.5, 3, 4], category_id=1),
        JSON + "annotation 13: same object twice: the same box and category as annotation 12",
    ),
    Broken(
        "one file under two ids",
        lambda document, _: document["images"][1].update(file_name="one.jpg"),
        "one.jpg: image 2: one file under two ids: image 1 is the same file, so",
    ),
    Broken(
        "12 of 16 bits",
        with_pixels("I;12"),
        "one.png: image 1: unusual pixels: mode I;16, converted to 8-bit RGB when it is read; "
        "nearly black, its values end at 4080: --data.pixel-range 0 4095?",
    ),
    Broken(
        "CMYK",
        with_pixels("CMYK", "cmyk.jpg"),
        "cmyk.jpg: image 1: unusual pixels: mode CMYK, converted to 8-bit RGB when it is read",
    ),
    Broken(
        "palette",
        with_pixels("P"),
        "one.png: image 1: unusual pixels: mode P, converted to 8-bit RGB when it is read",
    ),
    Broken(
        "alpha",
        with_pixels("RGBA"),
        "one.png: image 1: unusual pixels: mode RGBA, converted to 8-bit RGB when it is read",
    ),
    Broken(
        "16 bit",
        with_pixels("I;16"),
        "one.png: image 1: unusual pixels: mode I;16, converted to 8-bit RGB when it is read",
    ),
    Broken(
        "TIFF of three pages",
        with_pages("pages.tif"),
        "pages.tif: image 1: several pages: the first of its 3 pages or frames is read",
    ),
    Broken(
        "moving PNG",
        with_pages("moving.png"),
        "moving.png: image 1: several pages: the first of its 3 pages or frames is read",
    ),
]

NOT_COCO = {
    "nothing": ("", "not a json file: Expecting value"),
    "broken json": ('{"images": [', "not a json file: Expecting value"),
    "a list": ("[]", "not a COCO detection file: it has no list 'images'"),
    "no annotations": (
        '{"images": [], "categories": []}',
        "not a COCO detection file: it has no list 'annotations'",
    ),
    "no categories": (
        '{"images": [], "annotations": [], "categories": []}',
        "'categories' is empty, so there is nothing to detect",
    ),
    "bytes": ("\udcff\udcfd\udc80", "is not UTF-8, and its encoding is unknown"),
}

if __name__ == "__main__":
    for case in [*ERRORS, *NOTES]:
        print(case.write(Path(sys.argv[1]) / case.name.replace(" ", "_")))

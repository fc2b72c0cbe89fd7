"""The data sets of the usual tools are found by their folder, and every box is where it belongs."""

from pathlib import Path

import numpy as np
import pytest
from exporters import SPLIT, WHOLE
from two_images import CAT, DOG, write

from sssd.data import DetectionDataset, check
from sssd.data.build import DataConfig, build_datasets
from sssd.data.formats import read_dataset


def objects(dataset: DetectionDataset) -> dict[str, list[tuple[str, list[float]]]]:
    """Class and box of every object, by the image's stem."""
    found = {}
    for index, path in enumerate(dataset.image_paths):
        assert Path(path).is_file()
        boxes, labels = dataset.targets(index)
        rounded = np.round(boxes, 3).tolist()
        found[Path(path).stem] = [
            (dataset.classes[n], b) for n, b in zip(labels, rounded, strict=True)
        ]
    return found


@pytest.mark.parametrize("name", SPLIT)
def test_parts(name: str, tmp_path: Path) -> None:
    files, train, val = SPLIT[name]
    write(tmp_path, files)
    train_set, val_set = build_datasets(DataConfig(train=tmp_path / train, val=tmp_path / val))
    assert objects(train_set) == {"a": [("dog", DOG)]}
    assert objects(val_set) == {"b": [("cat", CAT)]}
    assert check(train_set).errors == []


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole(name: str, tmp_path: Path) -> None:
    files, path = WHOLE[name]
    write(tmp_path, files)
    dataset = read_dataset(tmp_path / path)
    assert dataset.classes == ["cat", "dog"]
    assert objects(dataset) == {"a": [("dog", DOG)], "b": [("cat", CAT)]}
    assert check(dataset).faults == []

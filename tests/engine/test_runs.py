"""A run's folder is opened whole, or refused with its reason."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sssd.data import DataError, read_coco
from sssd.engine.runs import evaluation_data, load
from tests.scenes import write_scenes


@pytest.fixture(scope="module")
def trained(finished_run: Path) -> Path:
    return finished_run


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def change_settings(run: Path, room: str, **changes: object) -> None:
    settings = json.loads((run / "config.json").read_text())
    settings[room] |= changes
    (run / "config.json").write_text(json.dumps(settings))


def test_the_detector_of_a_run_comes_back(trained: Path) -> None:
    run = load(trained)
    assert run.classes == ["kind0", "kind1"]
    assert run.category_ids == [1, 2]
    assert not run.detector.training
    saved = load_file(trained / "model.safetensors")
    state = run.detector.model.state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], saved[name]) for name in saved)


def test_what_training_started_from_is_not_needed_again(copied: Path) -> None:
    change_settings(copied, "detector", weights="gone.pt", start_from="gone.safetensors")
    image = [torch.rand(3, 64, 64)]
    (found,) = load(copied).detector(image)
    change_settings(copied, "detector", weights=None, start_from=None)
    (expected,) = load(copied).detector(image)
    assert len(expected["scores"]) > 0
    assert torch.equal(found["boxes"], expected["boxes"])


def test_folders_that_are_no_run_are_refused(tmp_path: Path, copied: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="a file; give the folder of a run"):
        load(copied / "model.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"not the folder of a run, it has no config\.json"):
        load(tmp_path / "empty")
    (copied / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"is not finished.*--resume"):
        load(copied)


def test_damaged_files_are_named(copied: Path) -> None:
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model\.safetensors: not a complete safetensors file"):
        load(copied)
    change_settings(copied, "detector", colour="blue")
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        load(copied)
    (copied / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: not a json file"):
        load(copied)


def test_settings_of_another_version_are_refused(copied: Path) -> None:
    change_settings(copied, "detector", colour="blue")
    with pytest.raises(ValueError, match=r"version of sssd.*colour"):
        load(copied)


def test_a_class_count_that_does_not_fit_is_refused(copied: Path) -> None:
    path = copied / "model.safetensors"
    metadata = {"classes": '["a", "b", "c"]', "category_ids": "[1, 2, 3]"}
    save_file(load_file(path), path, metadata)
    with pytest.raises(ValueError, match=r"cls_logits.bias is \(2,\) in the file and \(3,\) here"):
        load(copied)


def test_classes_are_known_by_name(trained: Path, tmp_path: Path) -> None:
    run = load(trained)
    path = write_scenes(tmp_path, "val")
    document = json.loads(path.read_text())
    document["categories"] = [{"id": 1, "name": "kind1"}, {"id": 2, "name": "kind0"}]
    path.write_text(json.dumps(document))
    assert run.category_ids_in(read_coco(path)) == [2, 1]
    document["categories"].append({"id": 3, "name": "without an object"})
    path.write_text(json.dumps(document))
    assert run.category_ids_in(read_coco(path)) == [2, 1]
    document["categories"][0]["name"] = "kind7"
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"kind7, kind0.*was trained on 2 classes \(kind0, kind1\)"):
        run.category_ids_in(read_coco(path))


def test_other_data_do_not_inherit_the_images_of_the_runs_own(trained: Path) -> None:
    run = load(trained)
    assert evaluation_data(run) == run.data
    assert run.data.val is not None
    other = evaluation_data(run, val=Path("other.json"), on_bad_data="drop")
    assert (other.val, other.val_images, other.format) == (Path("other.json"), None, None)
    assert other.on_bad_data == "drop"


@pytest.mark.parametrize("stated", ["3", '"cat"', "[" * 10**5, "cat", "[1, 2]"])
def test_classes_that_are_no_list_of_names_are_refused(stated: str, copied: Path) -> None:
    weights = copied / "model.safetensors"
    with safe_open(weights, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(weights), weights, {**metadata, "classes": stated})
    with pytest.raises(ValueError, match=r"copy: a file of this run .* metadata hold"):
        load(copied)


@pytest.mark.parametrize(
    ("field", "value"), [("detector", []), ("data", None), ("processes", 0), ("engine", 3)]
)
def test_a_record_of_other_kinds_is_refused(field: str, value: object, copied: Path) -> None:
    record = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**record, field: value}))
    with pytest.raises(ValueError, match="copy: a file of this run does not fit this version"):
        load(copied)

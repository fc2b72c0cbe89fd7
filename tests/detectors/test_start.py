"""A detector starts from weights of another: shared classes keep their rows, whatever the head."""

import dataclasses
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
import torchvision
from rich.console import Console
from safetensors.torch import load_file, safe_open, save_file
from torchvision.ops import FrozenBatchNorm2d

from sssd.detectors import Detector, build_detector
from sssd.detectors.settings import DetectorName
from sssd.detectors.start import PUBLISHED
from sssd.engine.runs import load
from tests.small import small_config

DETECTORS = ("fcos", "retinanet", "fasterrcnn")
THERE, HERE = ["cat", "dog", "bird"], ["emu", "bird", "cat", "yak"]


def saved(folder: Path, name: DetectorName, classes: list[str], /, **metadata: object) -> Path:
    torch.manual_seed(1)
    model = build_detector(small_config(name), len(classes)).model
    texts = {key: json.dumps(value) for key, value in ({"classes": classes} | metadata).items()}
    save_file(model.state_dict(), folder / "model.safetensors", texts)
    return folder / "model.safetensors"


def started(
    name: DetectorName, path: Path, classes: list[str] = HERE, **changes: object
) -> tuple[Detector, str]:
    config = small_config(name, start_from=path, **changes)
    console = Console(file=io.StringIO(), width=500)
    torch.manual_seed(2)
    detector = build_detector(config, len(classes), classes, console)
    return detector, console.file.getvalue().rstrip()


def scores(detector: Detector, kinds: list[int]) -> torch.Tensor:
    """What a head says of classes, everywhere: logits and, of Faster R-CNN, their boxes.

    Among other numbers of classes they may be rounded differently.
    """
    detector.eval()
    torch.manual_seed(3)
    if hasattr(detector.model, "roi_heads"):
        logits, boxes = detector.model.roi_heads.box_predictor(torch.rand(7, 1024))
        rows = [0] + [kind + 1 for kind in kinds]
        return torch.cat([logits[:, rows, None], boxes.unflatten(1, (-1, 4))[:, rows]], 2)
    maps = [torch.rand(1, 64, 4, 4)]
    return detector.model.head(maps)["cls_logits"][..., kinds]


@pytest.mark.parametrize("name", DETECTORS)
def test_shared_classes_are_found_as_before(name: DetectorName, tmp_path: Path) -> None:
    path = saved(tmp_path, name, THERE)
    detector, line = started(name, path)
    assert line == f"starting from {path}: kept classes: bird, cat; new: emu, yak"
    whole, line = started(name, path, THERE)
    assert line == f"starting from {path}: all 3 classes are kept"
    state = load_file(path)
    assert all(torch.equal(state[k], v) for k, v in whole.model.state_dict().items())
    torch.testing.assert_close(scores(detector, [1, 2]), scores(whole, [2, 0]))
    torch.manual_seed(2)
    new = build_detector(small_config(name), len(HERE))
    if name != "fasterrcnn":  # the features are the other's: compare the rows themselves
        rows, own = detector.model.head, new.model.head
        rows, own = (h.classification_head.cls_logits.bias.view(-1, 4) for h in (rows, own))
        assert torch.equal(rows[:, [0, 3]], own[:, [0, 3]])


@pytest.mark.parametrize("name", DETECTORS)
def test_torchvisions_coco_weights_are_known(
    name: DetectorName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their number of classes, and by the name `coco`; their network is made small here."""
    weights = torchvision.models.get_weight(f"{PUBLISHED[name]}_ResNet50_FPN_Weights.COCO_V1")
    categories = weights.meta["categories"]
    names = categories[1:] if name == "fasterrcnn" else categories
    torch.manual_seed(1)
    coco = build_detector(small_config(name), len(names))
    torch.save(coco.model.state_dict(), tmp_path / "coco.pth")
    detector, line = started(name, tmp_path / "coco.pth", ["zebra", "gnu", "N/A"])
    assert line.endswith("torchvision's COCO weights: kept classes: zebra; new: gnu, N/A")
    torch.testing.assert_close(scores(detector, [0]), scores(coco, [names.index("zebra")]))
    with pytest.raises(
        ValueError, match=r"--detector\.backbone resnet50 --detector\.width 256, but"
    ):
        started(name, Path("coco"))
    monkeypatch.setattr("sssd.detectors.start.OF_THE_NETWORK", ("name",))
    monkeypatch.setattr(
        type(weights), "get_state_dict", lambda self, **_: torch.load(tmp_path / "coco.pth")
    )
    detector, line = started(name, Path("coco"), ["zebra", "gnu"])
    assert line.endswith("FPN_Weights.COCO_V1: kept classes: zebra; new: gnu")
    torch.testing.assert_close(scores(detector, [0]), scores(coco, [names.index("zebra")]))


@pytest.mark.parametrize("name", DETECTORS)
def test_frozen_norms_of_torchvisions_coco_weights_do_what_they_do_there(
    name: DetectorName, tmp_path: Path
) -> None:
    """Their eps is 0 there, where RetinaNet or Faster R-CNN is given COCO_V1."""
    weights = torchvision.models.get_weight(f"{PUBLISHED[name]}_ResNet50_FPN_Weights.COCO_V1")
    count = len(weights.meta["categories"]) - (name == "fasterrcnn")
    save_file(torchvision.models.resnet18().state_dict(), tmp_path / "imagenet.safetensors")
    frozen = small_config(name, weights=str(tmp_path / "imagenet.safetensors"))
    torch.manual_seed(1)
    there = build_detector(frozen, count).model
    norms = [m for m in there.modules() if isinstance(m, FrozenBatchNorm2d)]
    for norm in norms:
        norm.running_var.uniform_(1e-7, 1e-4)[0] = 5.6e-45  # so that eps matters; of a dead channel
        norm.weight.copy_(norm.running_var.sqrt())
    torch.save(there.state_dict(), tmp_path / "coco.pth")
    for norm in norms:
        norm.eps = 1e-5 if name == "fcos" else 0.0
    start = small_config(name, weights="imagenet", start_from=tmp_path / "coco.pth")
    here = build_detector(start, 1, ["zebra"]).model
    images = torch.rand(1, 3, 64, 64)
    for own, theirs in zip(*(m.backbone(images).values() for m in (here, there)), strict=True):
        torch.testing.assert_close(own, theirs)


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    network = {"name": "fcos", "backbone": "resnet18", "width": 64, "p6_from": "p5"}
    path = saved(tmp_path, "fcos", THERE, detector=network)
    with pytest.raises(
        ValueError, match=r"was trained with --detector\.width 64, but here .*width 96: use"
    ):
        started("fcos", path, width=96)
    with pytest.raises(
        ValueError, match=r"weights b\.pt would be overwritten by --detector\.start"
    ):
        started("fcos", path, weights="b.pt")
    with pytest.raises(ValueError, match=r"was trained with --detector\.name fcos, but here it is"):
        started("retinanet", path)
    with pytest.raises(ValueError, match=r"has 3 classes but names 2: the file was modified"):
        started("fcos", saved(tmp_path, "fcos", THERE, classes=["a", "b"]))
    foreign = saved(tmp_path, "fcos", THERE, classes="a")
    with pytest.raises(ValueError, match=r"has 3 classes without names"):
        started("fcos", foreign)
    assert started("fcos", foreign, ["a", "b", "c"])[1].endswith("all 3 classes, matched by number")
    _, line = started("fcos", saved(tmp_path, "fcos", THERE), ["emu"])
    assert "it has none of the 1 classes; their rows of the head start from scratch" in line


def test_a_run_is_gone_on_with_by_other_classes_and_sizes(
    finished_run: Path, tmp_path: Path
) -> None:
    """From a run's folder, without what the run started from."""
    run = load(finished_run)
    config = dataclasses.replace(
        run.config, start_from=finished_run, weights="imagenet", min_size=(96,), max_size=128
    )
    console = Console(file=io.StringIO(), width=500)
    detector = build_detector(config, 2, ["emu", "kind1"], console)
    assert "kept classes: kind1; new: emu" in console.file.getvalue()
    assert detector.model.transform.min_size == (96,)
    body = detector.model.backbone.body
    assert not any(p.requires_grad for p in body.conv1.parameters()), "as of pretrained weights"
    with safe_open(finished_run / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["classes"]) == ["kind0", "kind1"]
        assert torch.equal(body.conv1.weight, file.get_tensor("backbone.body.conv1.weight"))
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"is not finished, so it has no model\.safetensors"
    ):
        build_detector(dataclasses.replace(config, start_from=tmp_path / "run"), 2, ["a", "b"])

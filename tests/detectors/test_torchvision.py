"""The detector protocol against the plain torchvision models it wraps."""

import pytest
import torch
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet

from sssd.detectors import build_detector
from sssd.detectors.backbones import build_backbone
from sssd.methods import build_method
from sssd.schedules import ScheduleConfig
from tests.small import NUM_CLASSES, images_and_targets, method_config, small_config, small_detector

DETECTORS = ("fcos", "retinanet", "fasterrcnn")


def shifted(name: str, targets: list) -> list:
    """Targets as the plain torchvision model takes them: Faster R-CNN's class 0 is background."""
    offset = 1 if name == "fasterrcnn" else 0
    return [{**target, "labels": target["labels"] + offset} for target in targets]


@pytest.mark.parametrize("name", DETECTORS)
def test_losses_are_those_of_the_plain_model(name: str) -> None:
    detector = small_detector(name).train()
    images, targets = images_and_targets()
    torch.manual_seed(1)  # Faster R-CNN samples its proposals
    expected = detector.model(images, shifted(name, targets))
    torch.manual_seed(1)
    batch = detector.prepare(images, targets)
    maps = detector.maps(batch)
    losses = detector.losses(maps, batch, detector.assign(maps, batch))
    assert losses.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(losses[key], value), key


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("method", ["sssd", "lgd"])
def test_a_trained_student_is_the_plain_model_and_no_more(name: str, method: str) -> None:
    detector = small_detector(name)
    schedule = ScheduleConfig(iterations=2, milestones=(2,), warmup=0)
    training = build_method(detector, method_config(method), schedule).train()
    optimizer = torch.optim.SGD(training.parameters(), 0.01)
    torch.manual_seed(1)
    for iteration in range(2):
        losses = training(*images_and_targets(), iteration).losses
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    detector.eval()
    config = small_config(name)
    backbone = build_backbone(
        "resnet18", None, config.width, finest_level=2 if name == "fasterrcnn" else 3
    )
    plain_class = {"fcos": FCOS, "retinanet": RetinaNet, "fasterrcnn": FasterRCNN}[name]
    classes = NUM_CLASSES + (name == "fasterrcnn")
    plain = plain_class(backbone, classes, min_size=64, max_size=96).eval()
    if name == "fcos":
        plain.score_thresh = 0.05
    plain.load_state_dict(detector.model.state_dict())
    pairs = zip(plain.modules(), detector.model.modules(), strict=True)
    assert all(isinstance(ours, type(theirs)) for theirs, ours in pairs)  # inference costs the same
    images, _ = images_and_targets()
    with torch.no_grad():
        for ours, theirs in zip(detector(images), plain(images), strict=True):
            assert torch.equal(ours["boxes"], theirs["boxes"])
            assert torch.equal(ours["scores"], theirs["scores"])
            assert torch.equal(shifted(name, [ours])[0]["labels"], theirs["labels"])


def test_no_side_of_a_box_starts_without_a_gradient() -> None:
    detector = small_detector("fcos")
    batch = detector.prepare(images_and_targets()[0])
    with torch.no_grad():
        sides = detector.model.head(detector.maps(batch))["bbox_regression"]
    assert sides.min() > 0  # torchvision's ReLU passes a gradient there


@pytest.mark.parametrize("name", DETECTORS)
def test_every_parameter_gets_a_gradient_from_images_without_boxes(name: str) -> None:
    detector = small_detector(name).train()
    images, targets = images_and_targets()
    empty = [targets[1], targets[1]]
    batch = detector.prepare(images, empty)
    maps = detector.maps(batch)
    sum(detector.losses(maps, batch, detector.assign(maps, batch)).values()).backward()
    assert [n for n, p in detector.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("name", DETECTORS)
def test_anchors_and_boxes_stay_fp32_under_autocast(name: str) -> None:
    detector = small_detector(name).train()
    anchors = []
    generator = (detector.model.rpn if name == "fasterrcnn" else detector.model).anchor_generator
    generator.register_forward_hook(lambda module, args, output: anchors.append(output))
    images, targets = images_and_targets()

    def run() -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        batch = detector.prepare(images, targets)
        maps = detector.maps(batch)
        return detector.losses(maps, batch, detector.assign(maps, batch))

    exact = run()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = run()
        detector.eval()
        found = detector(images)
    for full, cast in zip(anchors[0], anchors[1], strict=True):
        assert cast.dtype == torch.float32
        assert torch.equal(full, cast)
    for key, value in exact.items():
        assert rounded[key].dtype == torch.float32
        torch.testing.assert_close(rounded[key], value, rtol=0.05, atol=0.01)
    assert all(image["boxes"].dtype == torch.float32 for image in found)


def test_faster_rcnn_keeps_the_labels_of_the_protocol() -> None:
    detector = small_detector("fasterrcnn").eval()
    images, _ = images_and_targets()
    with torch.no_grad():
        labels = torch.cat([found["labels"] for found in detector(images)])
    assert len(labels) > 0
    assert labels.min() >= 0
    assert labels.max() < NUM_CLASSES


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_every_resnet_gives_a_pyramid_of_the_asked_width(backbone: str) -> None:
    detector = build_detector(small_config("retinanet", backbone=backbone, width=64), 2)
    with torch.no_grad():
        maps = detector.maps(detector.prepare([torch.rand(3, 64, 64)]))
    assert [tuple(m.shape) for m in maps] == [(1, 64, s, s) for s in (8, 4, 2, 1, 1)]


def test_all_detectors_keep_detections_above_the_same_score() -> None:
    models = {name: small_detector(name).model for name in DETECTORS}
    assert models["fcos"].score_thresh == models["retinanet"].score_thresh == 0.05
    assert models["fasterrcnn"].roi_heads.score_thresh == 0.05


@pytest.mark.parametrize("name", DETECTORS)
def test_an_image_has_no_more_detections_than_are_asked_for(name: str) -> None:
    detector = small_detector(name).eval()
    assert detector.max_detections == (300 if name == "retinanet" else 100)
    last = detector.model.roi_heads if name == "fasterrcnn" else detector.model
    last.score_thresh = 0.0  # an untrained detector is sure of nothing
    images, _ = images_and_targets()
    found = {}
    for most in (3, 40, None):
        detector.max_detections = most
        with torch.no_grad():
            found[most] = detector(images)[0]["scores"]
    assert (len(found[3]), len(found[40])) == (3, 40)
    assert len(found[None]) > 40
    assert torch.equal(found[None][:3], found[3])


@pytest.mark.parametrize("width", [64, 512])  # at 512 C5 is as wide as P5
@pytest.mark.parametrize("source", ["c5", "p5"])
def test_p6_comes_from_where_it_is_said(width: int, source: str) -> None:
    detector = build_detector(small_config("retinanet", width=width, p6_from=source), 2).eval()
    seen: list[torch.Tensor] = []
    detector.pyramid.extra_blocks.p6.register_forward_hook(lambda m, x, y: seen.append(x[0]))
    with torch.no_grad():
        batch = detector.prepare([torch.rand(3, 64, 64)])
        p5 = detector.maps(batch)[2]
        c5 = detector.backbone(batch.tensors)["2"]
    assert torch.equal(seen[0], c5 if source == "c5" else p5)


def test_width_and_sizes_that_no_head_takes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--detector\.width is 48"):
        small_config(width=48)
    with pytest.raises(ValueError, match=r"--detector\.p6-from is 'c5', but fasterrcnn"):
        small_config("fasterrcnn", p6_from="c5")
    with pytest.raises(ValueError, match=r"--detector\.min-size"):
        small_config(min_size=(16,))

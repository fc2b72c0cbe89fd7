"""LabelEnc: what each step trains, hands on and takes over."""

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sssd.detectors import build_detector
from sssd.losses import standardized_mse
from sssd.methods import LabelEncStep1Config, LabelEncStep2Config, Method, build_method
from sssd.schedules import CoefficientConfig, ScheduleConfig
from tests.small import NUM_CLASSES, images_and_targets, small_config
from tests.tiny import tiny_detector

DETECTORS = ("fcos", "retinanet", "fasterrcnn")
SCHEDULE = ScheduleConfig(iterations=10, milestones=(6,), warmup=0)


def step1(detector: str = "fcos", seed: int = 0, **coefficient: object) -> Method:
    config = LabelEncStep1Config(coefficient=CoefficientConfig(**coefficient))
    return build_method(tiny_detector(detector, NUM_CLASSES, seed), config, SCHEDULE).train()


def step2(weights: Path | None, detector: str = "fcos", **coefficient: object) -> Method:
    config = LabelEncStep2Config(
        coefficient=CoefficientConfig(**coefficient),
        step1_weights=weights,
    )
    method = build_method(tiny_detector(detector, NUM_CLASSES, seed=5), config, SCHEDULE)
    method.start()
    return method.train()


def export(method: Method, folder: Path) -> Path:
    path = folder / "step1.safetensors"
    save_file(dict(method.export()["step1"].state_dict()), path)
    return path


def trained_by(method: Method, kind: str, iteration: int) -> set[str]:
    """Parts that the losses of a kind give a gradient other than zero."""
    losses = method(*images_and_targets(), iteration).losses
    method.zero_grad()
    sum(loss for name, loss in losses.items() if name.startswith(kind)).backward()
    student = method.detector
    parts = {
        "backbone": student.backbone,
        "pyramid": student.pyramid,
        "head": student.head,
        "encoder": method.encoder,
        "adapter": method.distillation.adapter,
    }
    return {
        name
        for name, part in parts.items()
        if any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    }


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_step_1_trains_detector_and_encoder_by_one_head() -> None:
    built = step1(start=5)
    assert trained_by(built, "detection", 0) == {"backbone", "pyramid", "head"}
    assert trained_by(built, "teacher", 0) == {"head", "encoder"}
    assert trained_by(built, "distillation", 4) == set()
    assert [built.resting(i) for i in (4, 5)] == [[built.distillation.adapter], []]
    assert trained_by(built, "distillation", 5) == {"backbone", "pyramid", "adapter"}


def test_step_2_trains_a_new_detector_beside_a_frozen_encoder(tmp_path: Path) -> None:
    built = step2(export(step1(), tmp_path), stop=8)
    losses = built(*images_and_targets(), 0).losses
    assert not any(name.startswith("teacher") for name in losses)
    assert trained_by(built, "detection", 0) == {"backbone", "pyramid", "head"}
    assert trained_by(built, "distillation", 7) == {"backbone", "pyramid", "adapter"}
    assert trained_by(built, "distillation", 8) == set()
    part = built.distillation
    assert [built.resting(i) for i in (7, 8)] == [[], [part.adapter]]
    assert built(*images_and_targets(), 8).metrics["lambda"] == 0
    assert not any(p.requires_grad for p in built.encoder.parameters())


@pytest.mark.parametrize("detector", DETECTORS)
def test_step_2_takes_head_and_encoder_from_step_1_and_the_pyramid_from_the_encoder(
    detector: str, tmp_path: Path
) -> None:
    first = step1(detector, seed=1)
    with torch.no_grad():  # the encoder's pyramid must be told from the detector's
        for parameter in first.encoder.pyramid.parameters():
            parameter.add_(0.25)
    second = step2(export(first, tmp_path), detector)
    assert same(second.encoder, first.encoder)
    assert same(second.detector.head, first.detector.head)
    assert same(second.detector.pyramid, first.encoder.pyramid)
    assert not same(second.detector.pyramid, first.detector.pyramid)
    assert not same(second.detector.backbone, first.detector.backbone)


@pytest.mark.parametrize("detector", DETECTORS)
def test_both_steps_give_every_trained_parameter_a_gradient_on_every_batch(
    detector: str, tmp_path: Path
) -> None:
    first = step1(detector, start=1)
    second = step2(export(first, tmp_path), detector, stop=1)
    for method in (first, second):
        for iteration in range(2):
            for empty in (False, True):
                images, targets = images_and_targets()
                if empty:
                    targets = [targets[1], targets[1]]
                method.zero_grad()
                result = method(images, targets, iteration)
                total = sum(result.losses.values())
                total.backward()
                assert torch.isfinite(total)
                trained = [(n, p) for n, p in method.named_parameters() if p.requires_grad]
                assert [n for n, p in trained if p.grad is None] == []


def test_boxes_are_weakened_at_random_in_step_1_alone(tmp_path: Path) -> None:
    first = step1()
    second = step2(export(first, tmp_path))

    def loss(method: Method, kind: str) -> float:
        losses = method(*images_and_targets(), 0).losses
        return sum(v.item() for k, v in losses.items() if k.startswith(kind))

    assert loss(first, "teacher") != loss(first, "teacher")
    assert loss(second, "distillation") == loss(second, "distillation")


def test_step_1_of_one_backbone_serves_another(tmp_path: Path) -> None:
    one, student = (
        build_detector(small_config(backbone=name), NUM_CLASSES)
        for name in ("resnet18", "resnet34")
    )
    first = build_method(one, LabelEncStep1Config(), SCHEDULE)
    config = LabelEncStep2Config(step1_weights=export(first, tmp_path))
    second = build_method(student, config, SCHEDULE)
    second.start()
    assert same(second.encoder, first.encoder)
    assert same(second.detector.head, first.detector.head)


def test_what_rebuilds_a_run_of_step_2_leaves_its_detector_alone(tmp_path: Path) -> None:
    """As its teacher's evaluation and its report do, also after step 1's file is gone."""
    detector = tiny_detector("fcos", NUM_CLASSES, seed=5)
    before = {name: x.clone() for name, x in detector.state_dict().items()}
    config = LabelEncStep2Config(step1_weights=tmp_path / "gone.safetensors")
    build_method(detector, config, SCHEDULE)
    assert all(torch.equal(x, before[name]) for name, x in detector.state_dict().items())


def test_step_2_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--method\.step1-weights is required"):
        step2(None)
    with pytest.raises(FileNotFoundError, match="absent"):
        step2(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match=r"does not fit this EncoderAndHead: .*in the file"):
        step2(export(step1("fasterrcnn"), tmp_path))


def test_errors_of_levels_add_up_to_one_mean_and_ignore_scale_and_shift() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 8, 6, 4), torch.randn(2, 8, 3, 2)]
    other = [torch.randn_like(m) for m in maps]
    normed = [[(m - m.mean((1, 2, 3), keepdim=True)) / m.std((1, 2, 3), keepdim=True, correction=0)
               for m in side] for side in (maps, other)]  # fmt: skip
    flat = [torch.cat([m.flatten() for m in side]) for side in normed]
    expected = (flat[0] - flat[1]).square().mean()
    errors = partial(standardized_mse, over="image")
    torch.testing.assert_close(errors(maps, other).sum(), expected, rtol=1e-4, atol=0)
    scaled = [3 * m + 7 for m in maps]
    torch.testing.assert_close(errors(scaled, other), errors(maps, other), rtol=1e-3, atol=0)

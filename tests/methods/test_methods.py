"""Which loss trains what, and what a coefficient of zero means."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sssd.methods import (
    KINDS,
    FusionConfig,
    Method,
    SSSDConfig,
    build_method,
)
from sssd.methods.settings import AdapterName
from sssd.schedules import CoefficientConfig, ScheduleConfig
from tests.small import NUM_CLASSES, images_and_targets, method_config
from tests.tiny import tiny_detector

DETECTORS = ("fcos", "retinanet", "fasterrcnn")
SCHEDULE = ScheduleConfig(iterations=10, milestones=(6,), warmup=0)


def build(
    detector: str,
    method: str,
    fusion: str = "relation",
    adapter: AdapterName = "full",
    **coefficient: object,
) -> Method:
    config = method_config(
        method,
        coefficient=CoefficientConfig(**coefficient),
        fusion=KINDS[FusionConfig][fusion](),
        adapter=adapter,
    )
    student = tiny_detector(detector, NUM_CLASSES)
    torch.manual_seed(1)
    return build_method(student, config, SCHEDULE).train()


def trained_by(method: Method, kind: str, iteration: int) -> set[str]:
    """Names of the parts that the losses of a kind give a gradient other than zero."""
    images, targets = images_and_targets()
    torch.manual_seed(2)
    losses = method(images, targets, iteration).losses
    method.zero_grad()
    sum(loss for name, loss in losses.items() if name.startswith(kind)).backward()
    student = method.detector
    parts: dict[str, nn.Module] = {
        "backbone": student.backbone,
        "pyramid": student.pyramid,
        "head": student.head,
        "fusion": method.distillation.fusion,
        "adapter": method.distillation.adapter,
    }
    return {
        name
        for name, part in parts.items()
        if any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    }


@pytest.mark.parametrize("fusion", ["relation", "painted"])
@pytest.mark.parametrize("method", ["sssd", "lgd"])
@pytest.mark.parametrize("detector", DETECTORS)
def test_each_loss_trains_what_the_table_says(detector: str, method: str, fusion: str) -> None:
    built = build(detector, method, fusion, start=5)
    assert trained_by(built, "detection", 0) == {"backbone", "pyramid", "head"}
    assert trained_by(built, "teacher", 0) == {"backbone", "pyramid", "head", "fusion"}
    assert trained_by(built, "distillation", 0) == {"adapter"}
    assert trained_by(built, "distillation", 5) == {"backbone", "pyramid", "adapter"}


@pytest.mark.parametrize("method", ["sssd", "lgd"])
def test_the_distance_trains_any_adapter(method: str) -> None:
    separable = build("fcos", method, "painted", "separable", start=5)
    assert trained_by(separable, "distillation", 0) == {"adapter"}
    assert trained_by(separable, "distillation", 5) == {"backbone", "pyramid", "adapter"}
    none = build("fcos", method, "painted", "none", start=5)
    assert trained_by(none, "distillation", 5) == {"backbone", "pyramid"}
    losses = [none(*images_and_targets(), i).losses["distillation"] for i in (0, 5)]
    assert losses[0] == 0 < losses[1], "before the start there is nothing to train"


def test_an_unknown_adapter_is_refused() -> None:
    with pytest.raises(ValueError, match="adapter is False; it must be one of full, separable"):
        SSSDConfig(adapter=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_detached_fusion_keeps_the_teachers_losses_from_the_student(detector: str) -> None:
    built = build(detector, "sssd", "relation")
    built.distillation.fusion.detach = True
    assert trained_by(built, "teacher", 0) == {"head", "fusion"}


def trained_weights(method: Method, steps: int = 3) -> dict[str, Tensor]:
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.01, 0.9)
    torch.manual_seed(3)
    for iteration in range(steps):
        result = method(*images_and_targets(iteration), iteration)
        optimizer.zero_grad()
        sum(result.losses.values()).backward()
        optimizer.step()
    return method.detector.state_dict()


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_coefficient_of_zero_is_plain_training_bit_for_bit(detector: str) -> None:
    plain = trained_weights(build(detector, "plain"))
    for method in ("sssd", "lgd"):
        off = trained_weights(build(detector, method, value=0.0))
        assert all(torch.equal(off[name], value) for name, value in plain.items())
    on = trained_weights(build(detector, "sssd", value=1.0))
    assert not all(torch.equal(on[name], value) for name, value in plain.items())


def test_the_lambda_that_is_shown_is_the_one_that_acts_on_the_student() -> None:
    built = build("fcos", "sssd", value=2.0, start=3, stop=7)
    seen = [built(*images_and_targets(), i).metrics["lambda"] for i in (0, 2, 3, 6, 7)]
    assert seen == [0.0, 0.0, 2.0, 2.0, 0.0]


@pytest.mark.parametrize("method", ["sssd", "lgd", "labelenc_step2"])
def test_behind_its_stop_distillation_costs_nothing(method: str, tmp_path: Path) -> None:
    def operations(built: Method, iteration: int) -> int:
        with FlopCounterMode(display=False) as counter:
            losses = built(*images_and_targets(), iteration).losses
            sum(losses.values()).backward()
        assert not any(name.startswith("teacher") for name in losses) or iteration < 5
        return counter.get_total_flops()

    settings = {}
    if method == "labelenc_step2":
        first = build("fcos", "labelenc_step1")
        settings["step1_weights"] = tmp_path / "step1.safetensors"
        save_file(dict(first.export()["step1"].state_dict()), settings["step1_weights"])
    config = method_config(method, coefficient=CoefficientConfig(stop=5), **settings)
    built = build_method(tiny_detector(classes=NUM_CLASSES), config, SCHEDULE).train()
    plain = operations(build("fcos", "plain"), 0)
    assert operations(built, 4) > 1.05 * plain
    assert operations(built, 5) == plain
    trained = [p for p in built.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained), "what DistributedDataParallel waits for"
    rests = [part.state_dict().keys() for part in built.resting(5)]
    parts = [built.distillation.fusion, built.distillation.adapter]
    parts = parts[method == "labelenc_step2" :]  # its encoder is frozen
    assert rests == [part.state_dict().keys() for part in parts]


def test_the_weighted_distance_is_lambda_times_the_mean_of_the_levels() -> None:
    built = build("fcos", "sssd", value=2.0)
    losses, metrics = built(*images_and_targets(), 0)
    levels = torch.stack([v for k, v in metrics.items() if k.startswith("distance/")])
    assert len(levels) == 5
    torch.testing.assert_close(losses["distillation"], 2.0 * levels.mean())


@pytest.mark.parametrize(("root", "factor"), [("level", 8.0), (None, 64.0)])
def test_the_mean_over_elements_is_the_sum_scaled(root: str | None, factor: float) -> None:
    by_sum, by_mean = (
        build_method(
            tiny_detector(classes=NUM_CLASSES), SSSDConfig(root=root, elements=elements), SCHEDULE
        )
        for elements in ("sum", "mean")
    )
    torch.manual_seed(0)
    maps, other = ([torch.randn(2, 64, 5, 4), torch.randn(2, 64, 3, 2)] for _ in range(2))
    torch.testing.assert_close(
        by_sum.distances(maps, other)[1], factor * by_mean.distances(maps, other)[1]
    )

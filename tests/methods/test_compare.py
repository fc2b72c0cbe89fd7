"""The maps that a method draws towards each other, cell by cell."""

import math

import pytest
import torch

from sssd.detectors import Maps
from sssd.fusion import pack_objects
from sssd.losses import standardized_mse
from sssd.methods import Comparison, Method, PaintedConfig, build_method
from sssd.methods.distill import standardize
from sssd.schedules import CoefficientConfig, ScheduleConfig
from tests.small import images_and_targets, method_config, small_detector

SCHEDULE = ScheduleConfig(iterations=10, milestones=(6,), warmup=0)


def build(name: str, **settings: object) -> Method:
    config = method_config(name, fusion=PaintedConfig(), **settings)
    return build_method(small_detector(), config, SCHEDULE).eval()


def compare(method: Method) -> Comparison:
    comparison = method.compare(*images_and_targets())
    assert comparison is not None
    return comparison


def maps_of(method: Method) -> tuple[Maps, Maps]:
    """K after the adapter, and K_e."""
    batch = method.detector.prepare(*images_and_targets())
    maps = method.detector.maps(batch)
    part = method.distillation
    enhanced = part.fusion(maps, pack_objects(batch.targets), batch.image_size)
    return [part.adapter(m) for m in maps], enhanced


def test_cells_of_sssd_make_up_the_distance_of_their_level() -> None:
    method = build("sssd", temperature=0.7)
    found = compare(method)
    by_level = method.distances(*maps_of(method))[1]
    made = torch.stack([cells.square().mean().sqrt() for cells in found.cells])
    torch.testing.assert_close(made, by_level.detach(), rtol=1e-3, atol=1e-5)
    assert found.name == "JS distance"
    for cells, maps in zip(found.cells, found.student, strict=True):
        assert cells.shape == (2, *maps.shape[2:])
        assert cells.max() <= math.sqrt(math.log(2))


def test_cells_that_are_no_rows_have_a_squared_error() -> None:
    found = compare(build("sssd", over="cells"))
    assert found.name == "squared error"
    for cells, student, teacher in zip(found.cells, found.student, found.teacher, strict=True):
        torch.testing.assert_close(cells, (student - teacher).square().mean(1))


def test_cells_of_lgd_make_up_the_distance_of_their_level() -> None:
    method = build("lgd")
    found = compare(method)
    elements = sum(m.numel() for m in found.student)
    made = torch.stack([cells.sum() * found.student[0].shape[1] for cells in found.cells])
    by_level = method.distances(*maps_of(method))[1]
    torch.testing.assert_close(made / elements, by_level.detach(), rtol=1e-3, atol=1e-6)


def test_cells_of_labelenc_make_up_the_distance_of_their_level() -> None:
    method = build("labelenc_step1")
    found = compare(method)
    elements = sum(m.numel() for m in found.student)
    made = torch.stack([cells.sum() * found.student[0].shape[1] for cells in found.cells])
    batch = method.detector.prepare(*images_and_targets())
    student = [method.distillation.adapter(m) for m in method.detector.maps(batch)]
    encoded = method.encoder(pack_objects(batch.targets), batch.image_size)
    by_level = standardized_mse(student, encoded, over="image").detach()
    torch.testing.assert_close(made / elements, by_level, rtol=1e-3, atol=1e-6)


def test_it_is_the_students_adapted_maps_beside_those_made_from_the_labels() -> None:
    method = build("sssd")
    found = compare(method)
    for shown, made in zip((found.student, found.teacher), maps_of(method), strict=True):
        for level, maps in zip(shown, made, strict=True):
            torch.testing.assert_close(level, maps, rtol=0, atol=0)
    assert not found.student[0].requires_grad


@pytest.mark.parametrize(("name", "over"), [("lgd", (2, 3)), ("labelenc_step1", (1, 2, 3))])
def test_both_sides_are_shown_normalised_as_they_are_compared(name, over) -> None:
    found = compare(build(name))
    for maps in (found.student, found.teacher):
        with_boxes = [m[:1] for m in maps[:2]]  # LabelEnc's are constant without
        spread = torch.stack([m.var(over, unbiased=False).mean() for m in with_boxes])
        torch.testing.assert_close(spread, torch.ones(2), rtol=0.02, atol=0)


def test_there_is_nothing_to_compare_without_distillation() -> None:
    off = CoefficientConfig(value=0.0)
    for name in ("plain", "sssd", "lgd", "labelenc_step1"):
        method = build(name, coefficient=off)
        assert method.compare(*images_and_targets()) is None


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_standardized_maps(memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 64, *size) + 10 for size in ((24, 17), (2, 1), (1, 1))]
    maps = [m.to(memory_format=memory_format) for m in maps]
    assert all(m.dtype == torch.float32 for m in standardize([m.bfloat16() for m in maps]))
    for found, m in zip(standardize(maps), maps, strict=True):
        assert found.is_contiguous()
        variance, mean = torch.var_mean(m.double(), (2, 3), correction=0, keepdim=True)
        expected = (m.double() - mean) / (variance + 1e-5).sqrt()
        torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=0)

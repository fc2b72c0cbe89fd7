"""What the distillation coefficient means to a run."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sssd.data import read_coco
from sssd.detectors.settings import DetectorName
from sssd.engine.files import RunError
from sssd.engine.log import read_metrics
from sssd.engine.settings import EngineConfig
from sssd.methods import MethodConfig, PaintedConfig, build_method
from sssd.schedules import CoefficientConfig, ScheduleConfig
from tests.scenes import write_scenes
from tests.small import method_config
from tests.tiny import tiny_detector, train

SCHEDULE = ScheduleConfig(iterations=4, learning_rate=0.05, milestones=(3,), warmup=0)
CONFIG = EngineConfig(batch_size=2, workers=0, ema_decay=None, log_every=2, checkpoint_every=2)


def method_of(name: str, value: float = 1.0, **settings: object) -> MethodConfig:
    coefficient = CoefficientConfig(value=value)
    return method_config(name, coefficient=coefficient, fusion=PaintedConfig(), **settings)


def trained(
    data: Path, run: Path, detector: DetectorName, method: MethodConfig
) -> dict[str, Tensor]:
    """Weights of the detector after a run of images of several sizes."""
    dataset = read_coco(data / "annotations" / "instances_train.json")
    student = build_method(tiny_detector(detector), method, SCHEDULE)
    student.detector.model.transform.min_size = (48, 56, 64)
    return train(student, dataset, run, CONFIG, SCHEDULE).detector.state_dict()


@pytest.mark.parametrize("detector", ["fcos", "fasterrcnn"])  # the second draws its proposals
def test_a_run_with_a_coefficient_of_zero_is_a_plain_run_bit_for_bit(
    detector: DetectorName, tmp_path: Path
) -> None:
    write_scenes(tmp_path, "train")
    plain = trained(tmp_path, tmp_path / "plain", detector, method_of("plain"))
    for name in ("sssd", "lgd", "labelenc_step1"):
        off = trained(tmp_path, tmp_path / name, detector, method_of(name, value=0.0))
        assert all(torch.equal(off[key], value) for key, value in plain.items()), name


def run_tiny(folder: Path, method: MethodConfig, iterations: int = 4) -> None:
    path = folder / "annotations" / "instances_train.json"
    dataset = read_coco(path if path.exists() else write_scenes(folder, "train"))
    schedule = dataclasses.replace(SCHEDULE, iterations=iterations)
    student = build_method(tiny_detector(), method, schedule)
    train(student, dataset, folder, CONFIG, schedule)


def test_a_run_is_not_resumed_with_other_settings_of_the_method(tmp_path: Path) -> None:
    run_tiny(tmp_path, method_of("sssd"), iterations=2)
    with pytest.raises(RunError, match=r"method.coefficient.value is now 2\.0 and was 1\.0"):
        run_tiny(tmp_path, method_of("sssd", value=2.0))
    with pytest.raises(RunError, match=r"method.adapter is now none and was separable"):
        run_tiny(tmp_path, dataclasses.replace(method_of("sssd"), adapter="none"))
    with pytest.raises(RunError, match=r"method.name is now lgd and was sssd"):
        run_tiny(tmp_path, method_of("lgd"))
    run_tiny(tmp_path, method_of("sssd"))


def test_a_teacher_of_every_second_iteration_is_logged(tmp_path: Path) -> None:
    run_tiny(tmp_path, method_of("sssd", teacher_every=2))
    rows = [row for row in read_metrics(tmp_path) if "loss" in row]
    assert [row["iteration"] for row in rows] == [2, 4]
    assert all(row["loss/teacher/classification"] > 0 for row in rows)
    assert all(row["gradient/teacher/level0"] > 0 for row in rows)

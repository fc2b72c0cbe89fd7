"""Pictures of K and K_e."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from sssd.data import DetectionDataset, read_coco
from sssd.detectors import build_detector
from sssd.engine.map_plots import plot_maps
from sssd.methods import FusionConfig, Method, MethodConfig, build_method
from sssd.schedules import ScheduleConfig
from tests.scenes import write_scenes
from tests.small import small_config

SCHEDULE = ScheduleConfig(iterations=10, milestones=(6,), warmup=0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    return read_coco(write_scenes(tmp_path_factory.mktemp("data"), "val", count=3))


def build(name: str) -> Method:
    torch.manual_seed(0)
    config = MethodConfig(name=name, fusion=FusionConfig(name="heatmap"))
    return build_method(build_detector(small_config(), 2), config, SCHEDULE).train()


@pytest.mark.parametrize("name", ["sssd", "lgd", "labelenc_step1"])
def test_a_picture_shows_each_image_and_leaves_the_method_as_it_was(
    name: str, dataset: DetectionDataset, tmp_path: Path
) -> None:
    method = build(name)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    sizes = []
    for count in (1, 2):
        assert plot_maps(method, dataset, tmp_path / f"{count}.png", count)
        sizes.append(plt.imread(tmp_path / f"{count}.png").shape)
    assert method.training
    assert all(torch.equal(method.state_dict()[key], value) for key, value in before.items())
    assert sizes[1][0] > 1.5 * sizes[0][0]
    assert sizes[1][1] == sizes[0][1]


def test_maps_that_agree_have_no_gap(
    dataset: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, drawn = build("sssd"), []
    compare = method.compare

    def same(images: list, targets: list) -> object:
        found = compare(images, targets)
        return found._replace(teacher=found.student, cells=[0 * cells for cells in found.cells])

    monkeypatch.setattr(method, "compare", same)
    monkeypatch.setattr(
        "sssd.engine.map_plots._draw_map",
        lambda axes, values, comparison, **style: (
            drawn.append(values) or axes.imshow(values, **style)
        ),
    )
    assert plot_maps(method, dataset, tmp_path / "maps.png", count=1)
    strength, of_labels, gap, cells = drawn[:4]
    np.testing.assert_array_equal(strength, of_labels)
    assert strength.min() > 0
    assert gap.max() == cells.max() == 0


def test_plain_training_has_no_picture(dataset: DetectionDataset, tmp_path: Path) -> None:
    assert not plot_maps(build("plain"), dataset, tmp_path / "maps.png")
    assert not (tmp_path / "maps.png").exists()

"""Pictures of K and K_e."""

import numpy as np
import pytest
import torch

from sssd.data import DetectionDataset, read_coco
from sssd.detectors import build_detector
from sssd.methods import Method, PaintedConfig, build_method
from sssd.report.maps import draw_maps
from sssd.schedules import ScheduleConfig
from tests.scenes import write_scenes
from tests.small import method_config, small_config

SCHEDULE = ScheduleConfig(iterations=10, milestones=(6,), warmup=0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    return read_coco(write_scenes(tmp_path_factory.mktemp("data"), "val", count=3))


def build(name: str) -> Method:
    torch.manual_seed(0)
    config = method_config(name, fusion=PaintedConfig())
    return build_method(build_detector(small_config(), 2), config, SCHEDULE).train()


@pytest.mark.parametrize("name", ["sssd", "lgd", "labelenc_step1"])
def test_a_picture_shows_each_image_and_leaves_the_method_as_it_was(
    name: str, dataset: DetectionDataset
) -> None:
    method = build(name)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    sizes = []
    for indices in ([0], [2, 0]):
        figure = draw_maps(method, dataset, indices)
        assert figure is not None
        sizes.append(figure.get_size_inches())
    assert method.training
    assert all(torch.equal(method.state_dict()[key], value) for key, value in before.items())
    assert sizes[1][1] > 1.5 * sizes[0][1]
    assert sizes[1][0] == sizes[0][0]


def test_the_panels_are_k_k_e_their_difference_and_the_distance(
    dataset: DetectionDataset,
) -> None:
    method = build("sssd")
    figure = draw_maps(method, dataset, [0])
    assert figure is not None
    picture, *panels = (axes for axes in figure.axes if axes.images)
    image, target = dataset[0]
    np.testing.assert_array_equal(picture.images[0].get_array()[0, 0], image[:, 0, 0])

    pixels = image.as_subclass(torch.Tensor).float() / 255
    found = method.eval().compare([pixels], [{k: target[k] for k in ("boxes", "labels")}])
    levels = list(zip(found.student, found.teacher, found.cells, strict=True))[: len(panels) // 4]
    expected = []
    for k, k_e, cells in levels:
        root_mean_square = ((x[0] ** 2).mean(0) ** 0.5 for x in (k, k_e, k - k_e))
        expected += [*root_mean_square, cells[0]]
    assert len(panels) == len(expected) == 4 * 3
    for axes, values in zip(panels, expected, strict=True):
        np.testing.assert_allclose(axes.images[0].get_array(), values.detach(), rtol=1e-5)
        assert values.max() > 0
        corners = [(*r.get_xy(), r.get_width(), r.get_height()) for r in axes.patches]
        scaled = found.batch.targets[0]["boxes"]
        scaled = torch.cat([scaled[:, :2], scaled[:, 2:] - scaled[:, :2]], dim=1)
        np.testing.assert_allclose(corners, scaled)
    scales = [axes.images[0].get_clim() for axes in panels]
    assert len(set(scales[0::4] + scales[1::4] + scales[2::4])) == 1, "they can be compared"
    assert len(set(scales[3::4])) == 1


def test_plain_training_has_no_picture(dataset: DetectionDataset) -> None:
    assert draw_maps(build("plain"), dataset, [0]) is None

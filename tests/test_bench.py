"""What the benchmarks time beside ours computes the same."""

from __future__ import annotations

import subprocess
import sys
from unittest.mock import patch

import pytest
import torch

from bench import boxes as bench_boxes
from bench import divergence as bench_divergence
from bench import peers
from bench import step as bench_step
from sssd.methods import LGDConfig, PlainConfig, SSSDConfig, build_method
from sssd.ops import js_distance, label_heatmap, paint_boxes, pool_boxes
from sssd.schedules import ScheduleConfig
from tests.small import images_and_targets, small_detector

CHANNELS, SHAPES = 3, [(25, 42), (13, 21), (7, 11)]
IMAGE_SIZE, BATCH, CLASSES = bench_boxes.IMAGE_SIZE, bench_boxes.BATCH, bench_boxes.CLASSES


def maps() -> list[torch.Tensor]:
    return [torch.randn(BATCH, CHANNELS, *shape) for shape in SHAPES]


@pytest.mark.parametrize("peer", [peers.vectorised_pool, peers.looped_pool])
def test_pool(peer):
    boxes, _, index = bench_boxes.scene(30)
    arguments = (maps(), boxes, index, IMAGE_SIZE)
    torch.testing.assert_close(peer(*arguments), pool_boxes(*arguments))


@pytest.mark.parametrize("peer", [peers.vectorised_paint, peers.looped_paint])
def test_paint(peer):
    boxes, _, index = bench_boxes.scene(30)
    values = torch.randn(len(SHAPES), 30, CHANNELS)
    arguments = (values, boxes, index, IMAGE_SIZE, SHAPES, BATCH)
    torch.testing.assert_close(peer(*arguments), paint_boxes(*arguments))


@pytest.mark.parametrize(
    ("peer", "profile"),
    [(peers.centernet_heatmap, "gaussian_legacy"), (peers.labelenc_heatmap, "pyramid")],
)
def test_heatmap(peer, profile):
    size, shape = bench_boxes.HEATMAP_SIZE, bench_boxes.HEATMAP_SHAPE
    objects = bench_boxes.scene(30, size)
    (ours,) = label_heatmap(*objects, size, [shape], BATCH, CLASSES, profile=profile)
    looped = torch.as_tensor(peer(*objects, size, shape, BATCH, CLASSES))
    torch.testing.assert_close(looped, ours, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("over", ["channels", "cells"])
def test_divergence(over):
    student, teacher = maps(), maps()
    torch.testing.assert_close(
        bench_divergence.textbook(student, teacher, over), js_distance(student, teacher, over=over)
    )


def test_the_profiler_is_silent():
    """Its lines would stand between those of the tables."""
    code = (
        "import torch; from bench.divergence import peak_extra_bytes; "
        "assert peak_extra_bytes(lambda: torch.ones(100).add(1), 'cpu') > 0"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_distance_of_lgd():
    lgd = build_method(small_detector(), LGDConfig(), ScheduleConfig())
    student, teacher = maps(), maps()
    published = bench_step.published_distances(student, teacher)[0]
    torch.testing.assert_close(published, lgd.distances(student, teacher)[0])


def test_step_of_lgd_as_published():
    lgd = build_method(small_detector(), LGDConfig(), ScheduleConfig(warmup=0)).train()
    images, targets = images_and_targets()
    ours = lgd(images, targets, 0).losses
    with (
        bench_step.as_published(lgd),
        patch.object(peers, "looped_masks", wraps=peers.looped_masks) as masks,
    ):
        published = lgd(images, targets, 0).losses
        assert lgd.distillation.distance is bench_step.published_distances
    levels = len(lgd.detector.maps(lgd.detector.prepare(images, targets)))
    assert masks.call_count == 2 * levels * len(images), "to pool and to paint"
    torch.testing.assert_close(published, ours, atol=1e-4, rtol=1e-4)


def test_the_head_twice_is_plain_and_the_same_again():
    images, targets = images_and_targets()
    plain, twice = (
        build_method(small_detector(), method, ScheduleConfig(warmup=0)).train()
        for method in (PlainConfig(), SSSDConfig())
    )
    once = plain(images, targets, 0).losses
    with bench_step.head_twice(twice):
        losses = twice(images, targets, 0).losses
    again = {name.replace("detection/", "teacher/"): loss for name, loss in once.items()}
    torch.testing.assert_close(losses, once | again | {"distillation": torch.tensor(0.0)})
    assert len(list(twice.parameters())) == len(list(plain.parameters())), "nothing else is there"

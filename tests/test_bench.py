"""What the benchmarks time beside ours computes the same."""

from __future__ import annotations

import pytest
import torch

from bench import boxes as bench_boxes
from bench import divergence as bench_divergence
from bench import step as bench_step
from sssd.methods import MethodConfig, build_method
from sssd.ops import js_distance, label_heatmap, paint_boxes, pool_boxes
from sssd.schedules import ScheduleConfig
from tests.small import small_detector

CHANNELS, SHAPES = 3, [(25, 42), (13, 21), (7, 11)]
IMAGE_SIZE = bench_boxes.IMAGE_SIZE


def maps() -> list[torch.Tensor]:
    return [torch.randn(bench_boxes.BATCH, CHANNELS, *shape) for shape in SHAPES]


@pytest.mark.parametrize(
    "peer", [bench_boxes.vectorised_pool, bench_boxes.looped_pool, bench_step.published_pool]
)
def test_pool(peer):
    boxes, _, index = bench_boxes.scene(30)
    levels = maps()
    size = () if peer.__module__ == "bench.boxes" else (IMAGE_SIZE,)
    ours = pool_boxes(levels, boxes, index, IMAGE_SIZE)
    torch.testing.assert_close(peer(levels, boxes, index, *size), ours)


@pytest.mark.parametrize(
    "peer", [bench_boxes.vectorised_paint, bench_boxes.looped_paint, bench_step.published_paint]
)
def test_paint(peer, monkeypatch):
    monkeypatch.setattr(bench_boxes, "SHAPES", SHAPES)
    boxes, _, index = bench_boxes.scene(30)
    where = (boxes, index, IMAGE_SIZE, SHAPES, bench_boxes.BATCH)
    values = torch.randn(len(SHAPES), 30, CHANNELS)
    if peer.__module__ == "bench.boxes":  # one set of vectors for all levels
        values = values[0]
        painted = peer(values, boxes, index)
    else:
        painted = peer(values, *where)
    torch.testing.assert_close(painted, paint_boxes(values, *where))


@pytest.mark.parametrize(
    ("peer", "profile"),
    [(bench_boxes.centernet_loop, "gaussian_legacy"), (bench_boxes.labelenc_loop, "pyramid")],
)
def test_heatmap(peer, profile):
    size, shape = bench_boxes.HEATMAP_SIZE, bench_boxes.HEATMAP_SHAPE
    boxes, labels, index = bench_boxes.scene(30, size)
    ours = label_heatmap(
        boxes, labels, index, size, [shape], bench_boxes.BATCH, bench_boxes.CLASSES, profile=profile
    )
    (looped,) = map(torch.as_tensor, peer(boxes, labels, index))
    torch.testing.assert_close(looped, ours[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("over", ["channels", "cells"])
def test_divergence(over):
    student, teacher = maps(), maps()
    torch.testing.assert_close(
        bench_divergence.textbook(student, teacher, over), js_distance(student, teacher, over=over)
    )


def test_distance_of_lgd():
    lgd = build_method(small_detector(), MethodConfig("lgd"), ScheduleConfig())
    student, teacher = maps(), maps()
    published = bench_step.published_distances(student, teacher)[0]
    torch.testing.assert_close(published, lgd.distances(student, teacher)[0])

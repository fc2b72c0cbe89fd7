"""The generic parts that integrations are made of."""

import pytest
import torch
from torch import nn

from sssd.integrations import Tap, boxes_in_pixels, split_by_image


def test_normalised_boxes_become_pixels() -> None:
    boxes = boxes_in_pixels(torch.tensor([[0.5, 0.25, 0.5, 0.5]]), (100, 200))
    assert boxes.tolist() == [[50.0, 0.0, 150.0, 50.0]]
    for empty in (torch.zeros(0, 4), torch.zeros(0)):
        assert boxes_in_pixels(empty, (8, 8)).shape == (0, 4)
    with pytest.raises(
        ValueError, match=r"boxes has shape \(4, 5\): expected \(n, 4\).* axis-aligned"
    ):
        boxes_in_pixels(torch.zeros(4, 5), (8, 8))  # oriented; as many numbers as five boxes have


def test_flat_ground_truth_is_split() -> None:
    boxes = torch.arange(12.0).view(3, 4)
    split = split_by_image(
        boxes, torch.tensor([[5.0], [6.0], [7.0]]), torch.tensor([2.0, 0.0, 2.0]), 4
    )
    assert [t["labels"].tolist() for t in split] == [[6], [], [5, 7], []]
    assert torch.equal(split[2]["boxes"], boxes[[0, 2]])
    assert split[1]["boxes"].shape == (0, 4)
    elsewhere = split_by_image(boxes, torch.tensor([5, 6, 7]), torch.tensor([-1, 1, 2]), 2)
    assert [t["labels"].tolist() for t in elsewhere] == [[], [6]]


def test_a_tap_captures_only_while_open() -> None:
    body = nn.Identity()
    tap = Tap(body, "body")
    body(torch.zeros(1))
    with pytest.raises(RuntimeError, match="tap on body captured 0"):
        tap.take()
    tap.open()
    body(torch.ones(1))
    assert tap.take().item() == 1
    with pytest.raises(RuntimeError, match="captured 0"):
        tap.take()
    tap.remove()
    tap.open()
    body(torch.ones(1))
    with pytest.raises(RuntimeError, match="captured 0"):
        tap.take()

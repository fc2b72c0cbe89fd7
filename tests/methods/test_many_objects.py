"""An image crowded with objects trains in bounded memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sssd.methods import RelationConfig, SSSDConfig, build_method
from sssd.schedules import ScheduleConfig
from tests.tiny import tiny_detector

ROOT = Path(__file__).parents[2]
SIDE, CROWD = 512, 2000
# 326 MB were seen, most of them of the detector's own matching of objects and cells; with the dense
# masks of the reference operators (SSSD_BACKEND=reference) the relation fusion takes 489 MB.
MOST_MEGABYTES = 400


def scene(count: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two images, one of them with so many objects."""
    generator = torch.Generator().manual_seed(count)
    targets = []
    for boxes in (count, 1):
        corner = torch.rand(boxes, 2, generator=generator) * SIDE * 3 / 4
        size = 8 + torch.rand(boxes, 2, generator=generator) * SIDE / 4
        labels = torch.randint(2, (boxes,), generator=generator)
        targets.append({"boxes": torch.cat([corner, corner + size - 9], 1), "labels": labels})
    return [torch.rand(3, SIDE, SIDE, generator=generator) for _ in targets], targets


def main() -> None:
    """Prints by how much a step with the crowd raises the most memory of one with four objects."""
    config = SSSDConfig(fusion=RelationConfig(), adapter="full")
    schedule = ScheduleConfig(iterations=10, milestones=(6,), warmup=0)
    detector = tiny_detector("fcos")
    detector.model.transform.min_size, detector.model.transform.max_size = (SIDE,), SIDE
    method = build_method(detector, config, schedule).train()
    peaks = []
    for count in (4, CROWD):
        losses = method(*scene(count), 0).losses
        method.zero_grad()
        sum(losses.values()).backward()
        grads = [p.grad for p in method.parameters() if p.grad is not None]
        assert all(grad.isfinite().all() for grad in grads)
        # Not getrusage: it starts from the memory of the process that made this one.
        status = Path("/proc/self/status").read_text()
        peaks.append(int(status.split("VmHWM:")[1].split()[0]) / 1024)
    print(peaks[1] - peaks[0])


@pytest.mark.slow
def test_two_thousand_objects_in_an_image_train_in_bounded_memory() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.methods.test_many_objects"],
        cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    assert float(run.stdout) < MOST_MEGABYTES


if __name__ == "__main__":
    main()

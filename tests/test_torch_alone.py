"""`pip install sssd` without extras: what works with torch alone, and what says what is missing."""

import os
import re
import runpy
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

from sssd.extras import PACKAGES

ROOT = Path(__file__).resolve().parents[1]
brought_by = runpy.run_path(str(ROOT / "tools" / "try_wheel.py"))["brought_by"]

USE = """
import sys

import torch

import sssd
import sssd.distillation, sssd.fusion, sssd.integrations.attach, sssd.losses, sssd.ops
import sssd.schedules

assert "torch._dynamo" not in sys.modules  # it takes longer than torch itself
assert sssd.js_distance is sssd.ops.js_distance
maps = [torch.randn(2, 64, s, s, requires_grad=True) for s in (8, 4)]
boxes = torch.tensor([[4.0, 4.0, 30.0, 30.0]])
labels = torch.tensor([2])
targets = [{"boxes": boxes, "labels": labels}, {"boxes": boxes[:0], "labels": labels[:0]}]
objects = sssd.fusion.pack_objects(targets)
enhanced = sssd.fusion.PaintedFusion(3, 64)(maps, objects, (64, 64))
pooled = sssd.ops.pool_boxes(maps, boxes, torch.tensor([0]), (64, 64))
loss = sssd.js_distance(maps, enhanced) + sssd.losses.CWDLoss()(maps, enhanced) + pooled.sum()
loss.backward()
assert all(x.grad.isfinite().all() and x.grad.any() for x in maps)
print("done")
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """In it, Python finds no package but torch, what torch requires, and this one."""
    kept = brought_by("torch") | {"sssd"}
    hidden = [
        package
        for package, distributions in packages_distributions().items()
        if not kept & {re.sub(r"[-_.]+", "-", name).lower() for name in distributions}
    ]
    assert {"torchvision", "numpy", "PIL", "tyro", "rich", "matplotlib", "yaml"} <= {*hidden}
    # None in the place of a module: neither `import` nor `find_spec` finds it.
    code = f"import sys\nsys.modules.update(dict.fromkeys({hidden}))\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    return {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}


def test_operators_losses_and_fusion_need_torch_alone(environment: dict[str, str]) -> None:
    result = subprocess.run(
        [sys.executable, "-c", USE], env=environment, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr


def test_every_package_of_the_extra_is_asked_for() -> None:
    asked = {
        re.sub(r"[-_.]+", "-", distribution).lower()
        for package in PACKAGES
        for distribution in packages_distributions()[package]
    }
    required = [name for name in requires("sssd") or () if 'extra == "train"' in name]
    assert {re.split(r"[^\w-]", name)[0].lower() for name in required} <= asked


COMMANDS = """
import runpy, sys

import sssd

def status(call):
    try:
        return call() or 0
    except SystemExit as end:
        return end.code

for name in ("train", "evaluate", "data", "compare"):
    sys.orig_argv = ["python", "-m", f"sssd.{name}"]
    print(status(lambda: runpy.run_module(f"sssd.{name}", run_name="__main__", alter_sys=True)))
sys.orig_argv = ["python"]
try:
    sssd.fit
except ImportError as error:
    print(error)
"""


def test_what_needs_more_says_what_to_install(environment: dict[str, str]) -> None:
    result = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    *statuses, library = result.stdout.splitlines()
    assert statuses == ["2"] * 4
    assert "sssd[train]" in library
    lines = result.stderr.splitlines()
    assert len(lines) == 4, "one each"
    for line in lines:
        assert line.startswith("error: ")
        assert "torchvision" in line
        assert line.endswith("pip install 'sssd[train]'")

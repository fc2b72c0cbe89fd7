"""Plants faults, one at a time, in a copy of the tree, and asks whether quick tests catch each.

    python -m tests.mutations             all of them; takes minutes
    python -m tests.mutations VOC lambda  those whose names hold one of the words

A fault that survives names a test that is missing or too weak. Faults of the kernels are compiled
for the CPU by the emulator of kernels/host_cuda.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("sssd", "kernels", "tests", "bench", "pyproject.toml")
CAUGHT = 1  # pytest's exit code when tests ran and some failed


class Fault(NamedTuple):
    """Text that stands once in a file, what takes its place, and tests that must then fail."""

    name: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]


class Result(NamedTuple):
    """What the tests said of a fault; `code` is pytest's."""

    fault: Fault
    code: int
    seconds: float


FAULTS = [
    Fault(
        "CUDA: a vector is loaded beside the last row",
        "kernels/divergence/cuda_forward.cuh",
        """tile.level_row(tile.tile_row(j)), piece);
    };
    if constexpr (kStrided)
      if (tile.plan.vectors) {
        if (tile.row >= tile.rows_left) return;
""",
        """tile.level_row(min(tile.tile_row(j), tile.rows_left - 1)), piece);
    };
    if constexpr (kStrided)
      if (tile.plan.vectors) {
""",
        ("tests/kernels/test_widths.py", "-k", "no_vector"),
    ),
    Fault(
        "CUDA: the student's gradient takes the teacher's sum",
        "kernels/divergence/js.h",
        "{p * (select(above, up, down) - row.sum_a),",
        "{p * (select(above, up, down) - row.sum_b),",
        ("tests/kernels/test_divergence.py", "-k", "test_dtypes"),
    ),
    Fault(
        "CUDA: backward leaves out the weights of rows",
        "kernels/divergence/cuda_backward.cuh",
        "weighted(weight, slope * outer * constants.gradient_scale)",
        "slope * outer * constants.gradient_scale",
        ("tests/kernels/test_divergence.py", "-k", "row_weights"),
    ),
    Fault(
        "boxes: the last column on the border is left out",
        "kernels/boxes/geometry.h",
        "ceil(product(box.x1, level.width) / image.width)",
        "floor(product(box.x1, level.width) / image.width) + 1",
        ("tests/kernels/test_boxes.py", "-k", "every_kind"),
    ),
    Fault(
        "reference: a row of weight 0 lets NaN through",
        "sssd/ops/reference/divergence.py",
        "a, b = a.masked_fill(left_out, 0.0), b.masked_fill(left_out, 0.0)",
        "pass",
        ("tests/ops/test_divergence.py", "-k", "may_hold_nan"),
    ),
    Fault(
        "reference: rows without a finite logit count",
        "sssd/ops/reference/divergence.py",
        "low = top - 1e4 * temperature",
        "low = top - 10 * temperature",
        ("tests/ops/test_divergence_values.py", "-k", "masked"),
    ),
    Fault(
        "operators: forward-mode differentiation is a silent 0",
        "sssd/ops/dispatch.py",
        "if forward_ad.unpack_dual(x).tangent is not None:",
        "if False:",
        ("tests/ops/test_registration.py", "-k", "dual"),
    ),
    Fault(
        "LabelEnc: a ReLU behind the stem",
        "sssd/fusion/color_map.py",
        "return torch.cat(images)",
        "return F.relu(torch.cat(images))",
        ("tests/fusion", "-k", "labelenc or convolved"),
    ),
    Fault(
        "SSSD: the teacher is not detached",
        "sssd/distillation/core.py",
        "self.distance(adapted, [m.detach() for m in enhanced])",
        "self.distance(adapted, enhanced)",
        ("tests/methods/test_methods.py", "-k", "table"),
    ),
    Fault(
        "schedules: milestones one iteration late",
        "sssd/schedules.py",
        "decay = self.gamma ** bisect_right(self.milestones, iteration)",
        "decay = self.gamma ** bisect_right(self.milestones, iteration - 1)",
        ("tests/test_schedules.py",),
    ),
    Fault(
        "schedules: lambda is shown before it acts",
        "sssd/schedules.py",
        "if iteration >= self.start else 0.0",
        "",
        ("tests/methods/test_methods.py", "-k", "lambda"),
    ),
    Fault(
        "recipes: LabelEnc's step 1 keeps the usual milestones",
        "sssd/recipes/paper.py",
        "tuple(milestone + added for milestone in milestones)",
        "milestones",
        ("tests/recipes/test_paper.py", "-k", "labelenc"),
    ),
    Fault(
        "engine: a part that rests has a gradient of 0",
        "sssd/engine/step.py",
        "resting.zero_grad(set_to_none=True)",
        "resting.zero_grad(set_to_none=False)",
        ("tests/methods/test_resting.py",),
    ),
    Fault(
        "resume: the checkpoint's learning rate is kept",
        "sssd/engine/resume.py",
        "group.update(own)",
        "group.update({})",
        ("tests/engine/test_resume.py", "-k", "goes_on"),
    ),
    Fault(
        "resume: another batch size is taken without a word",
        "sssd/engine/resume.py",
        'if f not in HONOURED}',
        'if f not in HONOURED | {"--engine.batch-size"}}',
        ("tests/engine/test_resume.py", "-k", "refused_with_both"),
    ),
    Fault(
        "VOC: a stale <filename> wins over the xml's own name",
        "sssd/data/voc_files.py",
        "self.by_stem.get(xml.stem) or",
        "self.by_name.get(stated) or self.by_stem.get(xml.stem) or",
        ("tests/data/test_foreign.py", "-k", "test_voc"),
    ),
    Fault(
        'COCO: "iscrowd": "0" is a crowd',
        "sssd/data/coco.py",
        "return flags.get(str(value).strip().lower())",
        "return bool(value)",
        ("tests/data/test_foreign.py", "-k", "flags"),
    ),
    Fault(
        "augmentation: an image is flipped without its boxes",
        "sssd/data/augment.py",
        "steps.append(v2.RandomHorizontalFlip(flip))",
        "steps.append(lambda image, target: (image.flip(-1), target))",
        ("tests/data/test_augment.py", "-k", "flip"),
    ),
    Fault(
        "commands: names are read as markup",
        "sssd/commands.py",
        "markup=False",
        "markup=True",
        ("tests/test_text.py", "-k", "errors_are_text"),
    ),
]  # fmt: skip


def copied(folder: Path) -> None:
    """Copies what the tests need; the native library is linked."""
    left_out = shutil.ignore_patterns("__pycache__", "*.so")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=left_out)
        else:
            shutil.copy(ROOT / name, folder / name)
    for library in (ROOT / "sssd").glob("*.so"):
        (folder / "sssd" / library.name).symlink_to(library)
    (folder / "build").mkdir()


def run(folder: Path, tests: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Runs tests of a copy until one fails."""
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    shared = ROOT.parent / "shared" / "data"
    environment.setdefault("SSSD_DATA", str(shared))
    command = [sys.executable, "-m", "pytest", "-x", "-n0", "-p", "no:cacheprovider", *tests]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def planted(folder: Path, fault: Fault) -> Result:
    """Whether the tests, which pass without it, fail with a fault.

    Raises:
        RuntimeError: the text is not there once, or the tests fail without the fault.
    """
    path = folder / fault.file
    text = path.read_text()
    if text.count(fault.right) != 1:
        raise RuntimeError(f"{fault.right!r} is not once in {fault.file}: choose another fault")
    before = run(folder, fault.tests)
    if before.returncode:
        raise RuntimeError(f"{fault.tests} fail without the fault:\n{before.stdout[-2000:]}")
    path.write_text(text.replace(fault.right, fault.wrong))
    begun = time.monotonic()
    try:
        code = run(folder, fault.tests).returncode
    finally:
        path.write_text(text)
    return Result(fault, code, time.monotonic() - begun)


def main(words: list[str]) -> int:
    """Prints a row for each fault; 1 if one was not caught."""
    chosen = [f for f in FAULTS if not words or any(word in f.name for word in words)]
    survivors = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copied(folder)
        for fault in chosen:
            result = planted(folder, fault)
            survivors += result.code != CAUGHT
            said = "caught" if result.code == CAUGHT else f"SURVIVES (pytest: {result.code})"
            row = (fault.name, " ".join(fault.tests), f"{said}, {result.seconds:.0f} s")
            print("| " + " | ".join(row) + " |", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} faults caught")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

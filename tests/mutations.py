"""Plants faults, one at a time, in a copy of the tree, and asks whether quick tests catch each.

    python -m tests.mutations             all of them; takes minutes
    python -m tests.mutations VOC lambda  those whose names hold one of the words

A fault that survives names a test that is missing or too weak. Faults of the CUDA kernels are
compiled for the CPU by the emulator of tests/kernels.
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
    """Text that stands once in a file, what takes its place, and the test that must then fail."""

    name: str
    file: str
    right: str
    wrong: str
    test: str


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
        "tests/kernels/test_widths.py::test_no_vector_is_loaded_beside_the_last_row",
    ),
    Fault(
        "CUDA: the student's gradient takes the teacher's sum",
        "kernels/divergence/js.h",
        "{p * (select(above, up, down) - row.sum_a),",
        "{p * (select(above, up, down) - row.sum_b),",
        "tests/kernels/test_divergence.py::test_dtypes",
    ),
    Fault(
        "what the JS gradient subtracts lacks the rounding that its elements have",
        "kernels/divergence/js.h",
        "sums.a + constant<V>(0.5) * sums.third);",
        "sums.a);",
        "tests/kernels/test_divergence.py::test_rows_of_one_large_mass",
    ),
    Fault(
        "Triton: the gradient of the JS lacks half of its last term",
        "sssd/ops/triton/divergence_kernels.py",
        "cross = 0.25 * gap",
        "cross = 0.125 * gap",
        "tests/kernels/test_triton.py::test_interpreted",
    ),
    Fault(
        "boxes: the mean over the cells of a box is over one too many",
        "kernels/boxes/cuda_pool.cuh",
        "sum /= static_cast<float>(span.cells());",
        "sum /= static_cast<float>(span.cells() + 1);",
        "tests/kernels/test_boxes.py::test_pool",
    ),
    Fault(
        "boxes: the last column on the border is left out",
        "kernels/boxes/geometry.h",
        "ceil(product(box.x1, level.width) / image.width)",
        "floor(product(box.x1, level.width) / image.width) + 1",
        "tests/kernels/test_boxes.py::test_every_kind_of_box_covers_the_cells_of_the_reference",
    ),
    Fault(
        "reference: a row of weight 0 lets NaN through",
        "sssd/ops/reference/divergence.py",
        "a, b = a.masked_fill(left_out, 0.0), b.masked_fill(left_out, 0.0)",
        "pass",
        "tests/ops/test_divergence.py::test_row_of_weight_zero_may_hold_nan",
    ),
    Fault(
        "operators: forward-mode differentiation is a silent 0",
        "sssd/ops/dispatch.py",
        "if forward_ad.unpack_dual(x).tangent is not None:",
        "if False:",
        "tests/ops/test_registration.py::test_transforms_are_refused_by_the_kernels_and_right_by_the_reference",
    ),
    Fault(
        "LabelEnc: a ReLU after the stem",
        "sssd/fusion/color_map.py",
        "return torch.cat(images)",
        "return F.relu(torch.cat(images))",
        "tests/fusion/test_color_map.py",
    ),
    Fault(
        "SSSD: the teacher is not detached",
        "sssd/distillation/core.py",
        "self.distance(adapted, widened([m.detach() for m in enhanced]))",
        "self.distance(adapted, widened(enhanced))",
        "tests/methods/test_methods.py::test_each_loss_trains_what_the_table_says",
    ),
    Fault(
        "attach: lambda does not weigh the distance",
        "sssd/distillation/core.py",
        "loss = self.lambda_at(step) * total",
        "loss = 1.0 * total",
        "tests/integrations/test_torchvision.py::test_the_coefficient_weighs_and_follows_the_steps",
    ),
    Fault(
        "attach: lambda does not weigh the distance to a teacher",
        "sssd/distillation/teacher.py",
        """{"loss_distillation": self.lambda_at(step) * distance}""",
        """{"loss_distillation": distance}""",
        "tests/distillation/test_stepwise.py::test_a_teacher_draws_the_maps_behind_a_projection_and_stays_as_it_is",
    ),
    Fault(
        "attach: the labels' pass moves the head's running statistics",
        "sssd/distillation/core.py",
        "with running_state_kept(model, *besides), unwritten(enhanced):",
        "if True:",
        "tests/distillation/test_running_state.py::test_self_distillation_keeps_the_heads_state",
    ),
    Fault(
        "schedules: milestones one iteration late",
        "sssd/schedules.py",
        "decay = self.gamma ** bisect_right(self.milestones, iteration)",
        "decay = self.gamma ** bisect_right(self.milestones, iteration - 1)",
        "tests/test_schedules.py",
    ),
    Fault(
        "schedules: lambda is shown before it acts",
        "sssd/schedules.py",
        "if iteration >= self.start else 0.0",
        "",
        "tests/methods/test_methods.py::test_the_lambda_that_is_shown_is_the_one_that_acts_on_the_student",
    ),
    Fault(
        "engine: a part that rests has a gradient of 0",
        "sssd/engine/step.py",
        "resting.zero_grad(set_to_none=True)",
        "resting.zero_grad(set_to_none=False)",
        "tests/methods/test_resting.py",
    ),
    Fault(
        "attach: an optimizer moves a part that rests",
        "sssd/integrations/resting.py",
        "parameter.grad = None",
        "parameter.grad = parameter.grad",
        "tests/integrations/test_resting.py::test_an_optimizer_leaves_alone_what_rests",
    ),
    Fault(
        "flags: --method.name lgd has the recipe's fusion",
        "sssd/flags.py",
        "return cast(Named, kinds[name]())",
        'return cast(Named, kinds[name](**{"fusion": settings.fusion} if name == "lgd" else {}))',
        "tests/test_flags.py::test_lgd_in_a_recipe_of_sssd_has_lgds_parts_and_a_fixed_lambda",
    ),
    Fault(
        "evaluation: the detector is in training mode",
        "sssd/engine/inference.py",
        "part.eval()",
        "part.train()",
        "tests/engine/test_evaluation_on_the_way.py::test_a_detector_is_asked_in_evaluation_mode_and_given_back_as_it_was",
    ),
    Fault(
        "resume: random numbers do not go on where they were",
        "sssd/engine/loop.py",
        "restore_random_state(self.random, device)",
        "pass",
        "tests/engine/test_loop.py::test_a_resumed_run_ends_like_one_that_was_not_interrupted",
    ),
    Fault(
        "compare: an arm is paired with the baseline of another seed",
        "sssd/compare/plan.py",
        "self.run(self.baseline, seed, length)",
        "self.run(self.baseline, self.seeds[0], length)",
        "tests/compare/test_verdicts.py::test_gains_are_those_of_the_same_seed",
    ),
    Fault(
        "compare: the verdict at equal time is that at equal iterations",
        "sssd/compare/plan.py",
        """length = self.at_equal_time[arm] if equal == "time" else self.iterations""",
        "length = self.iterations",
        "tests/compare/test_verdicts.py::test_gains_are_those_of_the_same_seed",
    ),
    Fault(
        "resume: the checkpoint's learning rate is kept",
        "sssd/engine/resume.py",
        "group.update(own)",
        "group.update({})",
        "tests/engine/test_resume.py::test_a_run_goes_on_by_its_folder_alone_and_with_what_is_given_besides",
    ),
    Fault(
        "VOC: a stale <filename> wins over the xml's own name",
        "sssd/data/voc_files.py",
        "self.by_stem.get(xml.stem) or",
        "self.by_name.get(stated) or self.by_stem.get(xml.stem) or",
        "tests/data/test_foreign_folders.py::test_voc",
    ),
    Fault(
        'COCO: "iscrowd": "0" is a crowd',
        "sssd/data/coco.py",
        "return flags.get(str(value).strip().lower())",
        "return bool(value)",
        "tests/data/test_foreign_records.py::test_flags_and_areas",
    ),
    Fault(
        "augmentation: an image is flipped without its boxes",
        "sssd/data/augment.py",
        "steps.append(v2.RandomHorizontalFlip(flip))",
        "steps.append(lambda image, target: (image.flip(-1), target))",
        "tests/data/test_augment.py::test_flip",
    ),
    Fault(
        "commands: names are read as markup",
        "sssd/commands.py",
        "markup=False",
        "markup=True",
        "tests/test_text.py::test_a_console_prints_names_as_they_are",
    ),
]  # fmt: skip


def copied(folder: Path) -> None:
    """Copies what the tests need; the native library and what the emulator built are linked."""
    left_out = shutil.ignore_patterns("__pycache__", "*.so")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=left_out)
        else:
            shutil.copy(ROOT / name, folder / name)
    for library in (ROOT / "sssd").glob("*.so"):
        (folder / "sssd" / library.name).symlink_to(library)
    built = ROOT / "build" / "kernel_tests"
    built.mkdir(parents=True, exist_ok=True)
    (folder / "build").mkdir()
    (folder / "build" / "kernel_tests").symlink_to(built)


def run(folder: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """Runs tests of a copy until one fails."""
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    shared = ROOT.parent / "shared" / "data"
    environment.setdefault("SSSD_DATA", str(shared))
    command = [sys.executable, "-m", "pytest", "-x", "-n0", "-p", "no:cacheprovider", *tests]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def planted(folder: Path, fault: Fault) -> int:
    """What pytest ends with when a test of the copy runs with a fault.

    Raises:
        RuntimeError: the text is not there once.
    """
    path = folder / fault.file
    text = path.read_text()
    if text.count(fault.right) != 1:
        raise RuntimeError(f"{fault.right!r} is not once in {fault.file}: choose another fault")
    path.write_text(text.replace(fault.right, fault.wrong))
    try:
        return run(folder, fault.test).returncode
    finally:
        path.write_text(text)


def main(words: list[str]) -> int:
    """Prints a row for each fault; 1 if one was not caught, or the tests fail without."""
    chosen = [f for f in FAULTS if not words or any(word in f.name for word in words)]
    survivors = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copied(folder)
        before = run(folder, *{fault.test: None for fault in chosen})
        if before.returncode:
            print(f"the tests fail without a fault:\n{before.stdout[-2000:]}")
            return 1
        for fault in chosen:
            begun = time.monotonic()
            code = planted(folder, fault)
            survivors += code != CAUGHT
            said = "caught" if code == CAUGHT else f"SURVIVES (pytest: {code})"
            seconds = time.monotonic() - begun
            print(f"| {fault.name} | {fault.test} | {said}, {seconds:.0f} s |", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} faults caught")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

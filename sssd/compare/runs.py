"""One run of a plan: the commands that a user would give, and what came of them."""

import dataclasses
import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import sssd
from sssd.compare.arms import Arm, differences, settings_of
from sssd.compare.images import class_precisions, resampled
from sssd.compare.plan import Plan, PlannedRun
from sssd.data import DetectionDataset
from sssd.engine.analysis import rankings
from sssd.engine.evaluate import in_order, matched
from sssd.engine.files import BEST, NUMBERS, WEIGHTS, write_text
from sssd.engine.log import read_metrics
from sssd.engine.record import read_record, read_settings
from sssd.engine.state import checkpoints
from sssd.flags import names_in
from sssd.recipes import Config

Result = dict[str, Any]
RESULT, DETECTIONS, LOG, WALL = "result.json", "detections.json", "log.txt", "seconds.txt"
ON_THE_WAY = 4  # evaluations of a run, for its curve
SAVED = 20  # checkpoints of a run: what a crash costs
ITS_OWN = ("--engine.seed", "--engine.workers", "--engine.checkpoint-every",
           "--engine.evaluate-every", "--engine.evaluate-with")  # fmt: skip
"""What a result does not depend on, but for the seed: the runner may choose it anew."""


def training(plan: Plan, run: PlannedRun, arm: Arm, path: Path) -> list[str]:
    """The command that begins a run in its folder, or goes on with it."""
    command = [sys.executable, "-m", "sssd.train"]
    if checkpoints(path):
        return [*command, "--resume", "--out", str(path)]
    own = ["--engine.seed", str(run.seed)]
    given = names_in([*plan.flags, *arm.flags])
    for flag, value in (
        ("--engine.checkpoint-every", max(1, run.iterations // SAVED)),
        ("--engine.evaluate-every", max(1, -(-run.iterations // ON_THE_WAY))),
        ("--engine.workers", 0),
    ):
        if flag not in given:
            own += [flag, str(value)]
    return [*command, plan.recipe, *plan.flags, *arm.flags, *own, "--out", str(path)]


def evaluation(path: Path) -> list[str]:
    """The command that leaves a trained run's detections."""
    out = ["--detections", str(path / DETECTIONS), "--engine", "faster-coco-eval"]
    return [sys.executable, "-m", "sssd.evaluate", str(path), *out]


def is_trained(path: Path) -> bool:
    """Whether a run has come to its end."""
    return (path / NUMBERS).exists() and (path / WEIGHTS).exists()


def require_settings(plan: Plan, run: PlannedRun, arm: Arm, path: Path) -> None:
    """Refuses a run whose own record says that it is not what the plan names.

    Raises:
        ValueError: names all that differs.
    """
    config, record = read_settings(path, Config), read_record(path)
    own, planned = _compared(config), _compared(arm.config)
    changes = differences({**planned, "--engine.seed": str(run.seed)}, own)
    used = {name: str(v) for name, v in record.get("versions", {}).items()}
    for name, version in plan.versions.items():
        if not used.get(name, "").startswith(version):
            changes[name] = (version, used.get(name, "-"))
    if changes:
        told = "; ".join(f"{f} is {b} but the plan has {a}" for f, (a, b) in changes.items())
        raise ValueError(f"{path} is not a run of this plan: {told}. Move it away")


def _compared(config: Config) -> dict[str, str]:
    settings = settings_of(config)
    kept = {f: v for f, v in settings.items() if f not in ITS_OWN}
    return {**kept, "--engine.seed": settings["--engine.seed"]}


def collect(
    plan: Plan, run: PlannedRun, arm: Arm, path: Path, validation_set: DetectionDataset
) -> Result:
    """Leaves a finished run's `result.json`, and takes away what only the run needed.

    Raises:
        ValueError: the run is not what the plan names.
    """
    require_settings(plan, run, arm, path)
    numbers = json.loads((path / NUMBERS).read_text())
    detections = json.loads((path / DETECTIONS).read_text())
    classes = rankings(matched(validation_set.ground_truth(), detections))
    by_class = class_precisions(classes, np.ones(len(validation_set)))
    names = [validation_set.classes[i] for i in in_order(validation_set.category_ids)]
    rows = read_metrics(path)
    result: Result = {
        "plan": plan.digest,
        **dataclasses.asdict(run),
        "numbers": {name: v for name, v in numbers.items() if "AR" not in name},
        "classes": [
            [name, None if np.isnan(ap) else float(ap)]
            for name, ap in zip(names, by_class, strict=True)
        ],
        "curve": [[row["iteration"], row["AP"]] for row in rows if "AP" in row],
        "teacher_curve": [
            [row["iteration"], row["teacher/AP"]] for row in rows if "teacher/AP" in row
        ],
        "distance": _distances(rows),
        "levels": _levels(rows),
        "wall_seconds": wall_seconds(path),
        "code": code(),
        "resampled": [round(float(ap), 6) for ap in resampled(classes, plan.draws)],
    }
    text = json.dumps(result) + "\n"
    write_text(path / RESULT, text)
    (path / DETECTIONS).unlink()
    shutil.rmtree(path / "checkpoints", ignore_errors=True)  # the weights stay
    (path / BEST).unlink(missing_ok=True)  # what is compared is the end
    return result


def read_results(plan: Plan, folder: Path) -> dict[PlannedRun, Result]:
    """The results so far."""
    paths = {run: run.path(folder) / RESULT for run in plan.all_runs()}
    return {run: json.loads(path.read_text()) for run, path in paths.items() if path.exists()}


@cache
def code() -> str:
    """Digest of the package's source, which may change between two days of a study."""
    root = Path(sssd.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        if root / "compare" not in path.parents:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def add_wall_seconds(path: Path, seconds: float) -> None:
    """Notes how long a process of a run took."""
    with (path / WALL).open("a") as file:
        file.write(f"{seconds:.3f}\n")


def wall_seconds(path: Path) -> float:
    """How long all processes of a run took."""
    file = path / WALL
    return sum(map(float, file.read_text().split())) if file.exists() else 0.0


def _levels(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each level, at each evaluation: the distance, and its share of the gradient on K.

    They are those of the last step that was logged before; none where there is no distance.
    """
    found: list[dict[str, Any]] = []
    last: Mapping[str, Any] = {}
    for row in rows:
        if _each(row, "distance/level"):
            last = row
        if "AP" in row and last:
            found.append(
                {
                    "iteration": row["iteration"],
                    "lambda": last["lambda"],
                    "distance": _each(last, "distance/level"),
                    "share": _each(last, "gradient_share/distillation/level"),
                }
            )
    return found


def _each(row: Mapping[str, Any], name: str) -> list[float]:
    return [value for key, value in row.items() if key.startswith(name)]


def _distances(rows: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """The distance between K and K_e, its levels' mean, in the first and the last tenth of rows."""
    levels = [_each(row, "distance/level") for row in rows]
    values = [float(np.mean(each)) for each in levels if each]
    part = -(-len(values) // 10)
    return [float(np.mean(values[:part])), float(np.mean(values[-part:]))] if values else None

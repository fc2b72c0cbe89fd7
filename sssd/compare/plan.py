"""`plan.json`: what is compared and what counts as a gain, written before the first run."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from sssd.compare.arms import Arm, differences, longer
from sssd.compare.statistics import FIRST_LOOK, Rule, make_rule
from sssd.data import DetectionDataset
from sssd.engine import record
from sssd.engine.files import RECORD, write_text

Equal = Literal["iterations", "time"]
FILE = "plan.json"
SAME_COST = 0.02  # steps that differ by less are hardly timed more exactly
IMAGE_NOISE = 10.0
"""Standard deviation of a paired gain over draws of V validation images is about this over the root
of V, in points of AP (0.29 were measured for 1,000 images of VOC 2007). The measured one takes its
place once there are runs."""


@dataclass(frozen=True)
class PlannedRun:
    """One training of the plan.

    Attributes:
        arm: name of what is trained.
        iterations: its length.
        seed: its seed.
        folder: name of its folder.
    """

    arm: str
    iterations: int
    seed: int
    folder: str

    def path(self, folder: Path) -> Path:
        """Its folder in that of the plan."""
        return folder / "runs" / self.folder


@dataclass(frozen=True)
class Plan:
    """What is fixed before the first run.

    Attributes:
        recipe: of `sssd.train`.
        flags: what all arms share.
        arms: the flags of each arm by its name, the baseline first.
        settings: all settings of each arm, in words, at the length that was asked for.
        iterations: length of every arm; less than was asked for where the budget had no room.
        seconds: cost of a training step of each arm.
        at_equal_time: arm -> iterations of the baseline that take as long as the arm's.
        image_seconds: cost of a validation image of each arm.
        seeds: in the order in which they are run.
        error: see `make_rule`.
        rule: threshold, looks and levels.
        draws: how often the validation images are drawn again.
        data: fingerprints and sizes.
        versions: of what the results depend on.
        equal: what arms and baseline have in common where they are judged.
        written: the file's text, of a plan that was read.
    """

    recipe: str
    flags: list[str]
    arms: dict[str, list[str]]
    settings: dict[str, dict[str, str]]
    iterations: int
    seconds: dict[str, float]
    at_equal_time: dict[str, int]
    image_seconds: dict[str, float]
    seeds: list[int]
    error: float
    rule: Rule
    draws: int
    data: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    equal: list[Equal] = field(default_factory=lambda: list(get_args(Equal)))
    written: str = field(default="", repr=False, compare=False)

    @property
    def baseline(self) -> str:
        """The arm that the others are compared with."""
        return next(iter(self.arms))

    @property
    def others(self) -> list[str]:
        """The arms that are compared with it."""
        return list(self.arms)[1:]

    @property
    def digest(self) -> str:
        """What its results carry, so that no other plan takes them for its own."""
        return hashlib.sha256(self.text().encode()).hexdigest()[:16]

    def text(self) -> str:
        """As the file holds it, also one of an older version."""
        values = dataclasses.asdict(self)
        return values.pop("written") or json.dumps(values, indent=2) + "\n"

    def run(self, arm: str, seed: int, iterations: int | None = None) -> PlannedRun:
        """A training of an arm, of the plan's length or another."""
        length = self.iterations if iterations is None else iterations
        place = f"{list(self.arms).index(arm):02d}-" + "".join(
            letter if letter.isascii() and letter.isalnum() else "-" for letter in arm
        ).strip("-")
        long = "" if length == self.iterations else f"-{length}"
        return PlannedRun(arm, length, seed, f"{place[:60]}{long}-seed{seed}")

    def pair(self, arm: str, seed: int, equal: Equal) -> tuple[PlannedRun, PlannedRun]:
        """The arm's and the baseline's run: a gain at equal "iterations" or "time"."""
        length = self.at_equal_time[arm] if equal == "time" else self.iterations
        return self.run(arm, seed), self.run(self.baseline, seed, length)

    @property
    def counts(self) -> Equal:
        """What must be equal for the verdict that counts: time, unless it is left out."""
        return "time" if "time" in self.equal else "iterations"

    @property
    def comparisons(self) -> list[tuple[str, Equal]]:
        """What gets a verdict: each arm at equal iterations, then each at equal time."""
        return [(arm, equal) for equal in self.equal for arm in self.others]

    def runs(
        self, seed: int, comparisons: Sequence[tuple[str, Equal]] | None = None
    ) -> list[PlannedRun]:
        """The runs of a seed that some comparisons need, each once; by default those of all."""
        wanted = self.comparisons if comparisons is None else comparisons
        pairs = [self.pair(arm, seed, equal) for arm, equal in wanted]
        return list(dict.fromkeys(run for pair in pairs for run in reversed(pair)))

    def all_runs(self) -> list[PlannedRun]:
        """The runs of all seeds, in order; a plan that is decided early needs fewer."""
        return [run for seed in self.seeds for run in self.runs(seed)]

    def arm_of(self, run: PlannedRun, arms: Mapping[str, Arm]) -> Arm:
        """The settings of a run but for its seed, from the arms as they were asked for."""
        arm = arms[run.arm]
        same = run.iterations == arm.config.schedule.iterations
        return arm if same else longer(self.recipe, self.flags, arm, run.iterations)


def data_of(train: DetectionDataset, val: DetectionDataset) -> dict[str, Any]:
    """What is told of the data."""
    return {
        "train": {"fingerprint": train.fingerprint, "images": len(train)},
        "val": {
            "fingerprint": val.fingerprint,
            "images": len(val),
            "objects": int((~val.boxes.crowd).sum()),
        },
        "classes": list(val.classes),
    }


def versions() -> dict[str, str]:
    """What a result depends on beside settings and data; of Python the release alone."""
    used = record.versions()
    return used | {"python": used["python"].rpartition(".")[0]}


def equal_time(seconds: Mapping[str, float], iterations: int) -> dict[str, int]:
    """Iterations of the first arm that take as long as those of each other one.

    Arms of nearly the same cost (2 %) share one number, the largest; those hardly cheaper than the
    baseline (2 %) need no second run of it. Both favour the baseline.

    Args:
        seconds: cost of a step by arm, the baseline's first.
        iterations: length of every arm.
    """
    (_, unit), *others = seconds.items()
    ratios = dict(sorted(((n, s / unit) for n, s in others), key=lambda pair: -pair[1]))
    lengths: dict[str, int] = {}
    top = None
    for name, ratio in ratios.items():
        if top is None or ratio < top * (1 - SAME_COST):
            top = 1.0 if 1 - SAME_COST < ratio <= 1 else ratio
        lengths[name] = max(1, round(iterations * top))
    return lengths


def write(plan: Plan, folder: Path) -> None:
    """Writes the plan, which nothing changes any more once a run has begun."""
    write_text(folder / FILE, plan.text())


def read(folder: Path) -> Plan | None:
    """The plan in a folder, if there is one.

    Raises:
        ValueError: the file is damaged, or of another version.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text)
        rule = values.pop("rule")
        rule = Rule(rule["threshold"], tuple(rule["looks"]), tuple(rule["levels"]))
        return Plan(**values, rule=rule, written=text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: this version cannot read the plan ({error}); choose another --out"
        ) from error


def has_begun(folder: Path) -> bool:
    """Whether a run of the plan in a folder has begun."""
    return any((folder / "runs").glob("*/*"))


def refuse_changes(plan: Plan, now: Plan, folder: Path) -> None:
    """Refuses to go on with a plan that is not the one asked for.

    What was measured and chosen with it (costs, lengths at equal time or within a budget) stays.

    Raises:
        ValueError: names all that differs, with both values.
    """
    told: list[str] = []
    if list(plan.arms) != list(now.arms):
        told.append(f"--arms were {_list(plan.arms)} and are now {_list(now.arms)}")
    for name in plan.settings.keys() & now.settings.keys():
        changes = differences(plan.settings[name], now.settings[name])
        told += [f"{name}: {f} was {a} and is now {b}" for f, (a, b) in changes.items()]
    asked = {
        "--seeds": (plan.seeds, now.seeds),
        "--threshold": (plan.rule.threshold, now.rule.threshold),
        "--error": (plan.error, now.error),
        "--equal": (_list(plan.equal), _list(now.equal)),
        "the recipe": (plan.recipe, now.recipe),
        "the training data (fingerprint)": _data(plan, now, "train"),
        "the validation data (fingerprint)": _data(plan, now, "val"),
        **{n: (plan.versions.get(n), v) for n, v in now.versions.items()},
    }
    told += [f"{what} was {a} and is now {b}" for what, (a, b) in asked.items() if a != b]
    if told:
        raise ValueError(
            f"{folder / FILE} is another plan: "
            f"{'; '.join(told[:6])}{f'; and {len(told) - 6} more' if len(told) > 6 else ''}. A "
            "plan cannot be changed after its first run: choose another --out, or use the old "
            "settings"
        )


def refuse_foreign(plan: Plan, folder: Path) -> None:
    """Refuses a folder that holds what is not of the plan.

    Raises:
        ValueError: names it.
    """
    if (folder / RECORD).exists():
        raise ValueError(f"--out: {folder} is the folder of a training run; choose another one")
    known = {run.folder for run in plan.all_runs()}
    for path in sorted((folder / "runs").glob("*")):
        if path.name not in known:
            raise ValueError(f"{path} is not a run of {folder / FILE}: move it away")
        result = path / "result.json"
        if result.exists() and _plan_of(result) != plan.digest:
            raise ValueError(
                f"{result} belongs to another plan than {folder / FILE} (or that file was changed "
                "after the run): move it away, or choose another --out"
            )


def _plan_of(result: Path) -> str:
    """The digest of the plan that a `result.json` belongs to."""
    try:
        return str(json.loads(result.read_text(encoding="utf-8"))["plan"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{result} is damaged ({type(error).__name__}: {error}): remove its folder, and the "
            "run is repeated"
        ) from error


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuses seeds that no verdict can rest on.

    Raises:
        ValueError: one is there twice, is negative, or there are fewer than three.
    """
    twice = sorted({seed for seed in seeds if list(seeds).count(seed) > 1})
    if twice:
        raise ValueError(
            f"--seeds: {', '.join(map(str, twice))} is given more than once; a repeated run adds "
            "no information"
        )
    if len(seeds) < FIRST_LOOK or min(seeds) < 0:
        raise ValueError(f"--seeds {_list(seeds)}: give at least {FIRST_LOOK}, none below 0")


def image_warning(images: int, threshold: float, spread: float | None = None) -> str | None:
    """What to say of a validation set that is too small for the threshold.

    Args:
        images: their number.
        threshold: of the plan.
        spread: standard deviation of the gain over draws of the images, if it has been measured.
    """
    measured = spread is not None
    spread = IMAGE_NOISE / images**0.5 if spread is None else spread
    if 2 * spread <= threshold:
        return None
    needed = round(images * (2 * spread / threshold) ** 2, -2)
    return (
        f"{images} validation images are few for a threshold of {threshold:g} AP: on other images "
        f"like these {'this' if measured else 'a'} gain would differ by about ±{2 * spread:.1f} "
        f"(95 %{'' if measured else ', a rough guess'}); about {needed:,.0f} images would be "
        "needed. The verdict holds for these images"
    )


def new_rule(threshold: float, seeds: Sequence[int], error: float, verdicts: int) -> Rule:
    """The rule of a plan whose numbers make sense.

    Raises:
        ValueError: names the flag.
    """
    check_seeds(seeds)
    if not threshold > 0:
        raise ValueError(f"--threshold is {threshold:g}; it must be greater than 0 points of AP")
    if not 0.001 <= error <= 0.2:
        raise ValueError(f"--error is {error:g}; it must lie between 0.001 and 0.2")
    return make_rule(threshold, len(seeds), error, verdicts)


def _data(plan: Plan, now: Plan, part: str) -> tuple[str, str]:
    return plan.data[part]["fingerprint"], now.data[part]["fingerprint"]


def _list(values: Any) -> str:
    return " ".join(str(value) for value in values)

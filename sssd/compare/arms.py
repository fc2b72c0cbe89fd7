"""What is compared: arms, each a recipe with some flags of `sssd.train`."""

import contextlib
import hashlib
import io
import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sssd.data.settings import PLACES, SOURCE
from sssd.engine.files import WEIGHTS
from sssd.engine.record import by_flag
from sssd.flags import is_of, names_in, without_effect
from sssd.methods import DistillingConfig
from sssd.recipes import Config, stretched
from sssd.train import parse

_LGD_PARTS = ("--method.fusion.name", "relation", "--method.adapter", "full")
_PAINTED_PARTS = ("--method.fusion.name", "painted", "--method.adapter", "separable")
_FIXED = ("--method.coefficient.step-factor", "1")
_DOUBLED = ("--method.coefficient.step-factor", "2")

NAMED: dict[str, tuple[str, ...]] = {
    "plain": ("--method.name", "plain"),
    "sssd": ("--method.name", "sssd"),
    "sssd-fixed": ("--method.name", "sssd", *_FIXED),
    "sssd+lgd-parts": ("--method.name", "sssd", *_LGD_PARTS),
    "lgd": ("--method.name", "lgd", *_LGD_PARTS, *_FIXED),
    "lgd-stepwise": ("--method.name", "lgd", *_LGD_PARTS, *_DOUBLED),
    "lgd+painted": ("--method.name", "lgd", *_PAINTED_PARTS, *_FIXED),
}
"""LGD's parts are its fusion (relations between objects) and its full adapter; "painted" are those
of our recipes. Fixed: lambda does not rise at the milestones of the learning rate."""

FIGURES = ("paper-lambda", "paper-stepwise")
FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)  # of a method's lambda in the recipe: two decades

SET_BY_THE_PLAN = ("--engine.seed", "--out", "--resume")
OF_THE_PLAN = (
    *(*SET_BY_THE_PLAN, "--engine.device", "--schedule.iterations", "--schedule.epochs", *SOURCE),
)
"""What no arm may change: the plan gives it to all of them."""

FILES = ("--detector.weights", "--detector.start-from", "--method.step1-weights")
"""Settings that may name a file of weights; it is known by its content, too."""

OF_THE_PLACE = ("--out", "--resume", *PLACES)
"""Settings that tell where things lie; the data are known by their fingerprints."""


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: as the user calls it.
        flags: what it adds to the flags that all arms share.
        config: all settings that come of it.
    """

    name: str
    flags: tuple[str, ...]
    config: Config

    @property
    def settings(self) -> dict[str, str]:
        """What its results depend on, in words: `settings_of`."""
        return settings_of(self.config)


def settings_of(config: Config) -> dict[str, str]:
    """Settings in words by their flags, without those that only tell where things lie."""
    words = {f: str(v) for f, v in by_flag(config).items() if f not in OF_THE_PLACE}
    for flag in words.keys() & set(FILES):
        path = Path(words[flag])
        weights = path / WEIGHTS if path.is_dir() else path  # or a run's folder
        if weights.is_file():
            state = weights.stat()
            words[flag] += f" (sha256 {_digest(weights, state.st_mtime_ns, state.st_size)})"
    return words


@cache
def _digest(path: Path, modified: int, size: int) -> str:
    """Of a file's content, read once while it stays as it is: settings are compared often."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def make_arms(recipe: str, flags: Sequence[str], wanted: Sequence[str]) -> list[Arm]:
    """The arms that a command line names, all settings known and checked.

    Args:
        recipe: of `sssd.train`.
        flags: what all arms share.
        wanted: names of `NAMED` or `FIGURES`, or "name: --flag value ...".

    Raises:
        ValueError: an unknown name, two arms of one name or of the same settings, fewer than two,
            a flag that is the plan's, an arm that changes more than its flags say, or one whose
            runs may end early.
    """
    _refuse_set_by_the_plan(flags)
    if "--schedule.epochs" in names_in(flags):
        raise ValueError("--schedule.epochs: a plan needs --schedule.iterations instead")
    shared = _parsed(recipe, flags, "the flags that all arms share")
    pairs = [pair for text in wanted for pair in _named(text, recipe, flags)]
    if len(pairs) < 2:
        raise ValueError("--arms: a comparison needs at least two, the baseline first")
    arms: list[Arm] = []
    for name, own in pairs:
        _refuse_flags_of_the_plan(name, own)
        arm = Arm(name, own, _parsed(recipe, [*flags, *own], f"--arms {name}"))
        _refuse_more_than_said(arm, shared)
        if arm.config.engine.patience is not None:
            raise ValueError(
                f"--arms {name}: --engine.patience is {arm.config.engine.patience}; runs that end "
                "early are not of equal iterations or time: set it to None"
            )
        for other in arms:
            if other.name == name:
                raise ValueError(f"--arms: two arms are called {name!r}; give each its own name")
            if other.settings == arm.settings:
                raise ValueError(
                    f"--arms: {other.name!r} and {name!r} are the same training: all their "
                    f"settings are equal in the recipe {recipe}; leave one out"
                )
        arms.append(arm)
    return arms


def longer(recipe: str, flags: Sequence[str], arm: Arm, iterations: int) -> Arm:
    """An arm in another number of iterations: all that happens at one moves along."""
    wanted = stretched(arm.config, iterations)
    goal, idle = by_flag(wanted), tuple(without_effect(wanted))  # idle ones are refused
    # Parsing moves the recipe's iterations, not those that flags gave: these are said anew first,
    # as a flag may have no effect where they were; then what was rounded differently.
    given = names_in([*flags, *arm.flags]) - {"--schedule.iterations"}
    now = {flag: value for flag, value in by_flag(arm.config).items() if flag in given}
    own = [*arm.flags, "--schedule.iterations", str(iterations)]
    for _ in range(2):
        for flag, value in now.items():
            if value != goal[flag] and not is_of(flag, idle):
                own += [flag, *_words(goal[flag])]
        got = _parsed(recipe, [*flags, *own], f"--arms {arm.name}")
        now = by_flag(got)
    assert all(is_of(f, idle) for f in differences(settings_of(got), settings_of(wanted)))
    return Arm(arm.name, tuple(own), got)


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Settings that are not the same: flag -> (in one, in the other)."""
    flags = dict.fromkeys([*one, *other])
    pairs = {flag: (one.get(flag, "-"), other.get(flag, "-")) for flag in flags}
    return {flag: pair for flag, pair in pairs.items() if pair[0] != pair[1]}


def _named(text: str, recipe: str, flags: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Name and flags of what one word of --arms stands for."""
    name, colon, own = text.partition(":")
    name = name.strip()
    if colon:
        if not name or not own.strip() or name in (*NAMED, *FIGURES):
            raise ValueError(
                f'--arms {text!r}: write "name: --flag value", the name another than '
                f"{', '.join(NAMED)}"
            )
        return [(name, tuple(shlex.split(own)))]
    if name == "paper-lambda":
        sweep = [("plain", NAMED["plain"])]
        for method, own_flags in ("SSSD", NAMED["sssd-fixed"]), ("LGD", NAMED["lgd"]):
            config = _parsed(recipe, [*flags, *own_flags], "--arms paper-lambda")
            assert isinstance(config.method, DistillingConfig)
            for factor in FACTORS:
                value = f"{config.method.coefficient.value * factor:g}"
                lambda_flags = "--method.coefficient.value", value
                sweep.append((f"{method}, lambda {value}", (*own_flags, *lambda_flags)))
        return sweep
    if name == "paper-stepwise":
        names = ("plain", "sssd-fixed", "sssd", "lgd", "lgd-stepwise")
        return [(name, NAMED[name]) for name in names]
    if name not in NAMED:
        raise ValueError(
            f"--arms {text!r}: known are {', '.join([*NAMED, *FIGURES])}; or write one of your own "
            'as "name: --flag value"'
        )
    return [(name, NAMED[name])]


def _parsed(recipe: str, flags: Sequence[str], whose: str) -> Config:
    """Settings of `sssd.train recipe flags`.

    Raises:
        ValueError: says whose flags they are, and what is wrong with them.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return parse([recipe, *flags])[1]
    except SystemExit as error:
        text = " ".join(re.sub(r"[^\x20-\x7e]+", " ", said.getvalue()).split())
        raise ValueError(f"{whose}: {text}") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{whose}: {error}") from error


def _refuse_set_by_the_plan(flags: Sequence[str], whose: str = "") -> None:
    if given := names_in(flags) & set(SET_BY_THE_PLAN):
        told = ", ".join(sorted(given))
        raise ValueError(f"{whose}{told}: the plan sets seeds and folders itself")


def _refuse_flags_of_the_plan(name: str, own: Sequence[str]) -> None:
    _refuse_set_by_the_plan(own, f"--arms {name}: ")
    for flag in sorted(names_in(own) & set(OF_THE_PLAN)):
        raise ValueError(
            f"--arms {name}: {flag} must be the same for all arms; give it outside --arms"
        )


def _refuse_more_than_said(arm: Arm, shared: Config) -> None:
    said = names_in(arm.flags)
    for flag, (was, now) in differences(settings_of(shared), arm.settings).items():
        of_method = flag.startswith("--method.") and "--method.name" in said
        if flag not in said and not of_method:
            raise ValueError(
                f"--arms {arm.name}: this arm also changes {flag} from {was} to {now} without "
                "naming it; name that flag in the arm, or give it to all arms"
            )


def _words(value: object) -> list[str]:
    if isinstance(value, dict):
        return [str(word) for word in itertools.chain(*value.items())]
    if isinstance(value, (tuple, list)):
        return [str(word) for word in value]
    return [str(value)]

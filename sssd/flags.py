"""Flags that decide what other flags there are, and flags that would change nothing."""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

from sssd.data.settings import SOURCE
from sssd.engine.record import by_flag, with_changes
from sssd.methods import (
    KINDS,
    DistillingConfig,
    FusionConfig,
    LabelGuidedConfig,
    MethodConfig,
    NamedConfig,
)
from sssd.recipes import Config, stretched
from sssd.schedules import ScheduleConfig

Named = TypeVar("Named", bound=NamedConfig)


def of_length(config: Config, flags: Sequence[str]) -> Config:
    """A recipe at the length that a command line gives: its milestones, the start of distillation
    and all else that happens at an iteration move along, unless flags give them.
    """
    length = _value_of("--schedule.iterations", flags)
    try:
        iterations = int(length or "")
    except ValueError:  # not given, or no number, of which the parser tells
        return config
    return stretched(config, iterations) if iterations > 0 else config  # the schedule refuses it


def in_iterations(config: Config, images: int, flags: Sequence[str]) -> Config:
    """Settings whose length in epochs, if that is given, is counted in iterations.

    All that happens at an iteration moves along, but for what flags give, and in a run that goes
    on, which keeps its own.

    Args:
        config: settings of a run.
        images: to train on.
        flags: what was given.
    """
    schedule = config.schedule
    if schedule.epochs is None:
        return config
    iterations = max(1, round(schedule.epochs * images / config.engine.batch_size))
    if config.resume:
        schedule = dataclasses.replace(schedule, iterations=iterations, epochs=None)
        return dataclasses.replace(config, schedule=schedule)
    moved = stretched(config, iterations)
    schedule = dataclasses.replace(moved.schedule, epochs=None)
    now, names = by_flag(moved), names_in(flags) - {"--schedule"}  # that has epochs to count
    kept: dict[str, Any] = {}
    for flag, given in by_flag(config).items():
        # In Python a flag may be that of a whole group, or of an item of a dict.
        asked = any(is_of(flag, [name]) or is_of(name, [flag]) for name in names)
        if asked and given != now[flag]:
            *groups, field = flag.removeprefix("--").replace("-", "_").split(".")
            place = kept
            for group in groups:
                place = place.setdefault(group, {})
            place[field] = given
    return with_changes(dataclasses.replace(moved, schedule=schedule), kept)


def of_kinds(config: Config, flags: Sequence[str]) -> Config:
    """Settings of the method and the fusion that a command line names.

    Another method than the recipe's has its own fusion, adapter and lambda. Between SSSD and LGD,
    the start of distillation and the time of a frozen backbone stay. LabelEnc's step 1 has a
    quarter of its iterations without distance, and step 2 none after the last milestone.

    Raises:
        ValueError: there is none of that name, or a flag is of another one.
    """
    own = config.method
    method = _chosen(MethodConfig, own, "--method.name", flags)
    if isinstance(method, LabelGuidedConfig):
        if method is not own and isinstance(own, LabelGuidedConfig):
            start = dataclasses.replace(method.coefficient, start=own.coefficient.start)
            method = dataclasses.replace(
                method, coefficient=start, frozen_backbone=own.frozen_backbone
            )
        fusion = _chosen(FusionConfig, method.fusion, "--method.fusion.name", flags)
        method = dataclasses.replace(method, fusion=fusion)
    elif isinstance(method, DistillingConfig) and method is not own:
        method = _labelenc_in(config.schedule, method)
    config = dataclasses.replace(config, method=method)
    _refuse(_foreign(config), flags)
    return config


def _labelenc_in(schedule: ScheduleConfig, method: DistillingConfig) -> DistillingConfig:
    """By the recipe's schedule: 30k of 120k iterations of step 1 and 80k of 90k of step 2."""
    times: dict[str, Any] = {}
    if method.name == "labelenc_step1":
        times["start"] = schedule.iterations // 4
    elif schedule.milestones:
        times["stop"] = schedule.milestones[-1]
    return dataclasses.replace(method, coefficient=dataclasses.replace(method.coefficient, **times))


def _value_of(flag: str, flags: Sequence[str]) -> str | None:
    """What a command line gives a flag, the last time if there are several."""
    words = [word for given in flags for word in given.split("=", 1)]
    values = [value for name, value in itertools.pairwise(words) if name == flag]
    return values[-1] if values else None


def refuse_without_effect(config: Config, flags: Sequence[str]) -> None:
    """Refuses flags that change nothing beside the other settings.

    Raises:
        ValueError: names the flag and what it needs.
    """
    _refuse(without_effect(config), flags)


def without_effect(config: Config) -> dict[str, str]:
    """Flags that change nothing beside the other settings, and what each needs."""
    detector, engine, schedule = config.detector, config.engine, config.schedule
    needs: dict[str, tuple[bool, list[str]]] = {
        "pretrained --detector.weights": (
            detector.weights is not None, ["--detector.frozen-stages"]
        ),
        "data of your own: the demo makes its own, the recipe small (python -m sssd.train small "
        "...) takes yours": (
            config.data.format != "demo", [flag for flag in SOURCE if flag != "--data.format"]
        ),
        "--data.val, not --data.val-share": (
            config.data.val_share is None, ["--data.val-split"]
        ),
        "--engine.evaluate-every 1 or more, or none": (
            engine.evaluate_every != 0, ["--engine.evaluate-with", "--engine.patience"]
        ),
        "a run without --schedule.epochs, the other way to say how long it is": (
            schedule.epochs is None, ["--schedule.iterations"]
        ),
        "--schedule.warmup 1 or more": (schedule.warmup > 0, ["--schedule.warmup-factor"]),
        "--schedule.milestones": (bool(schedule.milestones), ["--schedule.gamma"]),
        **_needs_of_lambda(config),
    }  # fmt: skip
    return {flag: need for need, (met, names) in needs.items() if not met for flag in names}


def _needs_of_lambda(config: Config) -> dict[str, tuple[bool, list[str]]]:
    """What flags of a method need of its lambda: see `without_effect`."""
    if not isinstance(config.method, DistillingConfig):
        return {}
    coefficient, milestones = config.method.coefficient, config.schedule.milestones
    factor, steps = coefficient.step_factor, coefficient.steps
    name, first = "--method.coefficient", min(steps, default=math.inf)
    # step1-weights: step 2 begins with the head of step 1 in any case.
    kept = ("--method.name", f"{name}.value", f"{name}.steps", "--method.step1-weights")
    distilling = [flag for flag in by_flag(config.method, "--method.") if flag not in kept]
    # A factor of 1 is true in any case: the arms of `sssd.compare` say it of a fixed lambda.
    return {
        f"a lambda above 0, by {name}.value or {name}.steps": (
            not coefficient.is_off, distilling
        ),
        f"{name}.steps that begin later than at 0: they replace it": (
            first > 0 or not any(steps.values()), [f"{name}.value"]
        ),
        f"one of --schedule.milestones, and {name}.steps that begin later, if any": (
            factor == 1 or first > min(milestones, default=math.inf), [f"{name}.step-factor"]
        ),
    }  # fmt: skip


def names_in(words: Iterable[str]) -> set[str]:
    """The flags of a command line, each as its setting is called: --a.no-b and --a.b=0 as --a.b."""
    names = (word.split("=")[0].replace("_", "-") for word in words if word.startswith("--"))
    return {re.sub(r"\.no-(?=[^.]+$)", ".", name) for name in names}


def is_of(flag: str, others: Iterable[str]) -> bool:
    """Whether a flag is one of some, or of the group of one."""
    return any(f"{flag}.".startswith(f"{other}.") for other in others)


def _chosen(kind: type[Named], settings: Named, flag: str, flags: Sequence[str]) -> Named:
    """The settings, or those of the class that a flag names."""
    name, kinds = _value_of(flag, flags), KINDS[kind]
    if name in (None, settings.name):
        return settings
    if name not in kinds:
        raise ValueError(f"{flag} is {name!r}; it must be one of {', '.join(kinds)}")
    return cast(Named, kinds[name]())


def _foreign(config: Config) -> dict[str, str]:
    """Flags that other methods and fusions have, and the choice that has them."""
    needs: dict[str, str] = {}
    chosen: list[tuple[type[NamedConfig], NamedConfig, str]] = [
        (MethodConfig, config.method, "--method.")
    ]
    if isinstance(config.method, LabelGuidedConfig):
        chosen.append((FusionConfig, config.method.fusion, "--method.fusion."))
    for kind, settings, prefix in chosen:
        owners: dict[str, list[str]] = {}
        for name, other in KINDS[kind].items():
            for field in dataclasses.fields(other):
                owners.setdefault(field.name, []).append(name)
        for option in owners.keys() - vars(settings).keys():
            flag = prefix + option.replace("_", "-")
            needs[flag] = f"{prefix}name {' or '.join(owners[option])}"
    return needs


def _refuse(needs: Mapping[str, str], flags: Sequence[str]) -> None:
    """Refuses flags, and those of the groups, that need something else."""
    for flag in sorted(names_in(flags)):
        for beginning, need in needs.items():
            if is_of(flag, [beginning]):
                raise ValueError(f"{flag} has no effect here; it needs {need}")

"""`config.json`: the settings that a run was made with, and what changed where it went on."""

import dataclasses
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from sssd import __version__
from sssd.engine.files import RECORD, write_text
from sssd.methods import KINDS

T = TypeVar("T")


def by_flag(settings: Any, prefix: str = "--") -> dict[str, Any]:
    """Every one of nested settings, by the name of its flag.

    Example:
        >>> by_flag(ScheduleConfig(), "--schedule.")["--schedule.warmup-factor"]  # doctest: +SKIP
        0.001
    """
    flags: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        flag, value = prefix + field.name.replace("_", "-"), getattr(settings, field.name)
        nested = dataclasses.is_dataclass(value)
        flags |= by_flag(value, f"{flag}.") if nested else {flag: value}
    return flags


def settings_from(kind: type[T], values: Mapping[str, Any]) -> T:
    """Settings of a class from what json has left of them; what is missing takes its default.

    Raises:
        KeyError, TypeError: a name or value that the class does not know.
        ValueError: a value that the class refuses.
    """
    hints = get_type_hints(kind)
    return kind(**{name: _typed(hints[name], value) for name, value in values.items()})


def with_changes(settings: T, changes: Mapping[str, Any], place: str = "") -> T:
    """Settings with others in the place of some, each checked against its type.

    Args:
        settings: nested dataclasses.
        changes: values by the names of fields; nested settings as a whole, or in turn as a dict of
            those that change. Files may be given as text.
        place: name of the settings, for messages.

    Raises:
        TypeError: a name that is not there, or a value of another type.
        ValueError: a value that the settings refuse.

    Example:
        >>> from sssd.engine.settings import EngineConfig
        >>> with_changes(EngineConfig(), {"batch_size": 4}).batch_size
        4
    """
    from typeguard import TypeCheckError, check_type

    hints, values = get_type_hints(type(settings)), {}
    for name, value in changes.items():
        if name not in hints:
            known = ", ".join(hints)
            raise TypeError(f"{place}{name}: no such setting; the settings are {known}")
        before, hint = getattr(settings, name), hints[name]
        if not dataclasses.is_dataclass(before):
            values[name] = _typed(hint, value)
        elif isinstance(value, Mapping):
            values[name] = with_changes(before, value, f"{place}{name}.")
        else:
            values[name] = value
        try:
            check_type(values[name], hint)
        except TypeCheckError:
            wanted = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
            if dataclasses.is_dataclass(before):
                wanted = f"a dict of settings, {{name: value}}, or {wanted}"
            raise TypeError(f"{place}{name} is {value!r}; it must be {wanted}") from None
    return dataclasses.replace(settings, **values)  # type: ignore[type-var]


def _typed(hint: Any, value: Any) -> Any:
    if hint in KINDS:  # several classes, told apart by their name
        hint = KINDS[hint][value["name"]]
    if dataclasses.is_dataclass(hint):
        return settings_from(hint, value)  # type: ignore[arg-type]
    if isinstance(value, list):
        return tuple(value)
    if get_origin(hint) is tuple and type(value) in (int, float):  # as a flag takes one
        return (value,)
    if isinstance(value, dict):  # {iteration: number}
        return {int(key): number for key, number in value.items()}
    return Path(value) if isinstance(value, str) and Path in get_args(hint) else value


def read_record(run: Path) -> dict[str, Any]:
    """What a run's `config.json` holds.

    Raises:
        FileNotFoundError: the folder is no run's.
        ValueError: the file is damaged.
    """
    if run.is_file():
        raise FileNotFoundError(f"{run}: a file; give the folder of a run")
    if not run.is_dir():
        raise FileNotFoundError(f"{run}: no such folder; give the folder of a run")
    path = run / RECORD
    if not path.is_file():
        raise FileNotFoundError(
            f"{run}: not the folder of a run, it has no {RECORD}; `python -m sssd.train` prints "
            "its run folder at the end"
        )
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a json file.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a json file: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(
            f"{path}: not a valid file of a run: it must hold a json object, not {values!r:.80}"
        )
    return values


def read_settings(run: Path, kind: type[T]) -> T:
    """The settings in a run's `config.json`.

    Raises:
        FileNotFoundError: the folder is no run's.
        ValueError: the file is damaged, or of another version of sssd.
    """
    record = read_record(run)
    names = {field.name for field in dataclasses.fields(kind)} & record.keys()  # type: ignore[arg-type]
    try:
        return settings_from(kind, {name: record[name] for name in names})
    except (KeyError, TypeError, AttributeError) as error:
        raise of_another_version(run, error) from error


def of_another_version(run: Path, error: Exception) -> ValueError:
    """What to say of a file that lacks something, or holds what is not known."""
    why = f"{error} is missing or unknown" if isinstance(error, KeyError) else error
    return ValueError(
        f"{run}: a file of this run does not fit this version of sssd: {why}; use the version that "
        "wrote it, or train again"
    )


def versions() -> dict[str, str]:
    """Versions of the packages and of Python that a result depends on."""
    import torch  # seconds, which --help need not
    import torchvision

    return {
        "sssd": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }


def write_record(run: Path, recipe: str, settings: Any, iteration: int) -> dict[str, list[Any]]:
    """Writes the settings that a run has from an iteration on.

    "history" lists, for each time that a run went on with something changed, the iteration from
    which it holds, and what it was and is by the name of its flag.

    Args:
        run: the run's folder.
        recipe: what the settings began with.
        settings: nested dataclasses; `out` and `resume` are left out: they tell of a command.
        iteration: steps that the run has made; 0 begins the file anew.

    Returns:
        What has changed: flag -> [was, is].
    """
    from sssd.engine.distributed import world_size  # torch: seconds, which --help need not

    plain = {n: v for n, v in dataclasses.asdict(settings).items() if n not in ("out", "resume")}
    used = versions()
    record = {"recipe": recipe, **plain, "processes": world_size(), "versions": used}
    history, changed = [], {}
    if iteration > 0:
        before = read_record(run)
        was = by_flag(read_settings(run, type(settings)))
        changed = {f: [was[f], v] for f, v in by_flag(settings).items() if was[f] != v}
        changed = {f: v for f, v in changed.items() if f not in ("--out", "--resume")}
        old = before.get("versions", {})
        changed |= {n: [old.get(n), v] for n, v in used.items() if old.get(n) != v}
        history = before.get("history", [])
    if changed:
        history = [*history, {"iteration": iteration, "changed": changed}]
    text = json.dumps({**record, "history": history}, indent=2, default=str) + "\n"
    write_text(run / RECORD, text)
    return changed

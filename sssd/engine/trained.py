"""What a run has trained beside its detector, from its folder."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from sssd.detectors import Detector
from sssd.detectors.weights import load_weights
from sssd.engine.files import TEACHER
from sssd.engine.record import read_settings
from sssd.engine.state import load_latest
from sssd.methods import Method, MethodConfig, build_method
from sssd.schedules import ScheduleConfig


@dataclass(frozen=True)
class _Trained:
    """What of a run's settings its method is built from."""

    method: MethodConfig
    schedule: ScheduleConfig


def teacher_of(folder: Path, detector: Detector) -> nn.Module:
    """The fusion that a run has trained: it makes K_e of maps and labels.

    Args:
        folder: of the run.
        detector: the run's own.

    Raises:
        ValueError: its method has none, or its file is damaged.
        OSError: its file cannot be read.
    """
    trained = read_settings(folder, _Trained)
    fusion = build_method(detector, trained.method, trained.schedule).teacher
    if fusion is None:
        raise ValueError(
            f"--teacher: {folder} was trained with --method.name {trained.method.name} and has no "
            "implicit teacher; sssd, lgd and labelenc have one, unless lambda is 0"
        )
    load_weights(fusion, folder / TEACHER, "--teacher")
    return fusion.to(next(detector.parameters()).device).eval()


def method_of(folder: Path, detector: Detector) -> Method | None:
    """The method as a run's newest checkpoint has it; None without a checkpoint.

    Args:
        folder: of the run.
        detector: one of the run's settings, which takes the checkpoint's weights.

    Raises:
        RunError: it has checkpoints, and none can be read.
    """
    saved = load_latest(folder)
    if saved is None:
        return None
    trained = read_settings(folder, _Trained)
    method = build_method(detector, trained.method, trained.schedule)
    method.load_state_dict(saved["method"])
    return method.to(next(detector.parameters()).device).eval()

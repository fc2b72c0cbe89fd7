"""The divergence operator's CUDA sources, run on the CPU, as a function of tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sssd.ops.divergence_kernels import number
from tests.kernels import registers
from tests.kernels.building import DTYPES, host_module
from tests.ops.divergence_cases import DEFAULTS, numbers_of

BEYOND = 64  # floats that are watched


def load_module() -> ModuleType:
    """Compiles and imports the test-only module."""
    return host_module(
        "sssd_host_cuda", "kernels/divergence/cuda.cu", "tests/kernels/host_module.cpp"
    )


@dataclass
class Result:
    """What a run wrote."""

    values: Tensor  # (P,)
    saved: Tensor  # (planes, rows)
    grads: tuple[list[Tensor], list[Tensor]] = field(default_factory=lambda: ([], []))
    traffic: tuple[dict[str, int], dict[str, int]] = field(default_factory=lambda: ({}, {}))

    def all_grads(self) -> list[Tensor]:
        """Of the student, then of the teacher."""
        return [*self.grads[0], *self.grads[1]]


def run(
    module: ModuleType,
    student: list[Tensor],
    teacher: list[Tensor],
    *,
    weights: list[Tensor] | None = None,
    grad_values: Tensor | None = None,
    wanted: tuple[bool, bool] = (True, True),
    play: dict[str, Any] | None = None,
    **options: Any,
) -> Result:
    """Forward, and backward where `grad_values` (P,) is given, as csrc/divergence.cpp runs them.

    `play` says on which machine (tests/kernels/emulator/binding.h).
    """
    chosen = DEFAULTS | options
    settings = settings_of(**chosen)
    grads = tuple(
        [torch.full_like(x, math.nan) for x in side] if grad_values is not None and asked else []
        for side, asked in zip((student, teacher), wanted, strict=True)
    )
    levels = [
        map_of(a, chosen["over"])
        | {
            "student": a.data_ptr(),
            "teacher": b.data_ptr(),
            "grad_student": grads[0][i].data_ptr() if grads[0] else 0,
            "grad_teacher": grads[1][i].data_ptr() if grads[1] else 0,
            "weights": weights[i].data_ptr() if weights else 0,
        }
        for i, (a, b) in enumerate(zip(student, teacher, strict=True))
    ]
    call = (levels, DTYPES[student[0].dtype], DTYPES[teacher[0].dtype], settings)
    machine = {"chip": 90, **(play or {})}
    machine["resources"] = registers.needed_on(machine["chip"])
    module.play(**machine)
    rows, planes, floats = module.sizes(*call)
    # NaN everywhere: what a kernel forgets to write shows.
    saved = torch.full((planes, rows), math.nan)
    values, factors = torch.full((2, len(levels)), math.nan)
    workspace = torch.full((floats + BEYOND,), math.nan)
    module.forward(
        *call, saved.data_ptr(), values.data_ptr(), factors.data_ptr(), workspace.data_ptr()
    )
    assert workspace[floats:].isnan().all(), "written beyond the workspace"
    result = Result(values, saved, (grads[0], grads[1]), (module.traffic(), {}))
    if grad_values is not None:
        module.play(**machine)
        module.backward(*call, saved.data_ptr(), factors.data_ptr(), grad_values.data_ptr())
        result.traffic = (result.traffic[0], module.traffic())
    return result


def settings_of(**options: Any) -> dict[str, Any]:
    """The settings by name, as the module takes them."""
    return dict(zip(DEFAULTS, numbers_of(**options), strict=True))


def map_of(x: Tensor, over: str) -> dict[str, int]:
    """A map and what its rows run over, as the module takes them."""
    images, channels, height, width = x.shape
    return {
        "over": number("over", over), "images": images, "channels": channels,
        "cells": height * width, "channels_last": not x.is_contiguous(),
    }  # fmt: skip

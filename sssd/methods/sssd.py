"""Smooth and stepwise self-distillation (Deng et al., ICIP 2023, arXiv 2303.05015)."""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sssd.detectors import Maps
from sssd.methods.base import MethodName
from sssd.methods.distill import (
    AdapterName,
    FusionConfig,
    LabelGuided,
    LabelGuidedConfig,
    PaintedConfig,
    standardize,
)
from sssd.ops import js_distance


@dataclass(frozen=True, kw_only=True)
class SSSDConfig(LabelGuidedConfig):
    """SSSD: Jensen-Shannon distance between softmaxes of the maps."""

    name: MethodName = "sssd"
    # Both are the cheap ones. Without an adapter, and without a norm, the distance does nothing
    # (docs/results.md: 300 iterations at 64 channels).
    fusion: FusionConfig = field(default_factory=PaintedConfig)
    adapter: AdapterName = "separable"

    over: Literal["channels", "cells"] = "channels"
    """One distribution a cell, over its channels, or one a channel, over its cells. The paper is
    silent."""

    temperature: float = 1.0
    """Temperature of the softmax. The paper is silent."""

    root: Literal["level", "row"] | None = "level"
    """Root of a level's mean divergence, mean of the rows' roots, or no root."""

    elements: Literal["sum", "mean"] = "sum"
    """Divergence of a row as a sum over its elements, or their mean (as PyTorch's kl_div with
    "mean"), which makes a root of it sqrt(row length) times smaller: lambda 75 of the mean over 256
    channels is 75 / 16 = 4.7 of the sum. The paper is silent."""

    normalize: bool = False
    """Instance norm of both sides before the softmax."""

    def __post_init__(self) -> None:
        """Refuses what has no meaning."""
        super().__post_init__()
        if self.temperature <= 0:
            raise ValueError(f"--method.temperature is {self.temperature}; it must be > 0")


class SSSD(LabelGuided):
    """Self-distillation by the Jensen-Shannon distance between the student's maps and K_e.

    The distance of level p is sqrt(JS(softmax(k_p) || softmax(k_e_p))); their mean is what lambda
    weighs. Unlike the mean squared error of LGD it is bounded
    (by sqrt(ln 2)) and symmetric. Stepwise: lambda changes at the milestones of the learning rate.

    The paper is silent about the softmax axis, N, the reduction inside the root, any normalisation
    before it, and the two values of a stepwise lambda: all are settings, with defaults of our own.
    """

    config: SSSDConfig

    def distances(self, student: Maps, teacher: Maps) -> tuple[Tensor, Tensor]:
        """Mean JS distance of the levels, and the distance of each (P,)."""
        student, teacher = self.sides(student, teacher)
        by_level = js_distance(
            student,
            teacher,
            over=self.config.over,
            temperature=self.config.temperature,
            root=self.config.root,
            elements=self.config.elements,
            reduction="none",
        )
        return by_level.mean(), by_level

    def sides(self, student: Maps, teacher: Maps) -> tuple[Maps, Maps]:
        """Standardised with `normalize`: see `Distilling.sides`."""
        if self.config.normalize:
            return standardize(student), standardize(teacher)
        return student, teacher

    def cell_distances(self, student: Maps, teacher: Maps) -> tuple[Maps, str]:
        """Root of each cell's part of the divergence: see `Distilling.cell_distances`."""
        pairs = zip(student, teacher, strict=True)
        return [self._cell_distance(s, t) for s, t in pairs], "JS distance"

    def _cell_distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        def log_softmax(m: Tensor) -> Tensor:
            logits = m.double().flatten(2) / self.config.temperature
            return F.log_softmax(logits, 1 if self.config.over == "channels" else 2)

        p, q = log_softmax(student), log_softmax(teacher)  # (B, C, H_l * W_l)
        middle = torch.logaddexp(p, q) - math.log(2)
        terms = (p.exp() * (p - middle) + q.exp() * (q - middle)) / 2
        cells = terms.sum(1) if self.config.over == "channels" else terms.mean(1)
        return cells.clamp_min(0).sqrt().float().unflatten(1, student.shape[2:])

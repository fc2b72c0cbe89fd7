"""Smooth and stepwise self-distillation (Deng et al., ICIP 2023, arXiv 2303.05015)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sssd.detectors import Maps
from sssd.methods.distill import LabelGuided, standardize
from sssd.ops import js_distance


class SSSD(LabelGuided):
    """Self-distillation by the Jensen-Shannon distance between the student's maps and K_e.

    The distance of level p is sqrt(JS(softmax(k_p) || softmax(k_e_p))); their mean, each level
    alike or by its cells, is what lambda weighs. Unlike the mean squared error of LGD it is bounded
    (by sqrt(ln 2)) and symmetric. Stepwise: lambda changes at the milestones of the learning rate.

    The paper is silent about the softmax axis, N, the reduction inside the root, any normalisation
    before it, and the two values of a stepwise lambda: all are settings, with defaults of our own.
    """

    def distances(self, student: Maps, teacher: Maps) -> tuple[Tensor, Tensor]:
        """Mean JS distance of the levels, and the distance of each (P,)."""
        student, teacher = self.sides(student, teacher)
        by_level = js_distance(
            student,
            teacher,
            over=self.config.over,
            temperature=self.config.temperature,
            root=None if self.config.root == "none" else self.config.root,
            elements="mean" if self.config.reduction == "element" else "sum",
            reduction="none",
        )
        if self.config.levels == "equal":
            return by_level.mean(), by_level
        cells = [m.shape[2] * m.shape[3] for m in student]
        parts = [d * (n / sum(cells)) for d, n in zip(by_level.unbind(), cells, strict=True)]
        return torch.stack(parts).sum(), by_level

    def sides(self, student: Maps, teacher: Maps) -> tuple[Maps, Maps]:
        """Standardised with `normalize`: see `LabelGuided`."""
        if self.config.normalize:
            return standardize(student), standardize(teacher)
        return student, teacher

    def cell_distances(self, student: Maps, teacher: Maps) -> tuple[Maps, str]:
        """Root of each cell's part of the divergence: see `LabelGuided`."""
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

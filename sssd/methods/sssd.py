"""Smooth and stepwise self-distillation (Deng et al., ICIP 2023, arXiv 2303.05015)."""

from torch import Tensor

from sssd.detectors import Maps
from sssd.methods.distill import LabelGuided
from sssd.methods.settings import SSSDConfig
from sssd.ops import js_distance


class SSSD(LabelGuided):
    """Self-distillation by the Jensen-Shannon distance between the student's maps and K_e.

    The distance of level p is sqrt(JS(softmax(k_p) || softmax(k_e_p))); their mean is what lambda
    weighs. Unlike LGD's mean squared error it is bounded (by sqrt(ln 2)) and symmetric. Stepwise:
    lambda changes at the milestones of the learning rate.

    The paper is silent about the softmax axis, N, the reduction inside the root, any normalisation
    before it, and the two values of a stepwise lambda: all are settings, with defaults of our own.
    """

    config: SSSDConfig

    def distances(self, student: Maps, teacher: Maps) -> tuple[Tensor, Tensor]:
        """Mean JS distance of the levels, and the distance of each (P,)."""
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

    def cell_distances(self, student: Maps, teacher: Maps) -> tuple[Maps, str]:
        """Each cell's distance, where a cell is a row: see `Distilling.cell_distances`."""
        if self.config.over == "cells":
            return super().cell_distances(student, teacher)
        each = js_distance(student, teacher, temperature=self.config.temperature, rows="none")
        cells = [m[:, 0] for m in student]  # (B, H_l, W_l)
        parts = each.split([c.numel() for c in cells])
        return [p.view(c.shape) for p, c in zip(parts, cells, strict=True)], "JS distance"

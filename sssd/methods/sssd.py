"""Smooth and stepwise self-distillation (Deng et al., ICIP 2023, arXiv 2303.05015)."""

from torch import Tensor

from sssd.detectors import Maps
from sssd.methods.distill import LabelGuided, standardize
from sssd.methods.settings import SSSDConfig
from sssd.ops import js_distance
from sssd.ops.reference.divergence import softmax_terms


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
        temperature = self.config.temperature
        if self.config.over == "channels":  # a cell is a row
            each = js_distance(student, teacher, temperature=temperature, rows="none")
            cells = [m[:, 0] for m in student]  # (B, H_l, W_l)
            parts = each.split([c.numel() for c in cells])
            return [p.view(c.shape) for p, c in zip(parts, cells, strict=True)], "JS distance"
        terms = [
            softmax_terms(s.double(), t.double(), (2, 3), temperature, "js")
            for s, t in zip(student, teacher, strict=True)
        ]
        return [t.mean(1).sqrt().float() for t in terms], "JS distance"

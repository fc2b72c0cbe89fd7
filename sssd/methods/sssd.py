"""Smooth and stepwise self-distillation (Deng et al., ICIP 2023, arXiv 2303.05015)."""

from torch import Tensor

from sssd.detectors import Maps
from sssd.methods.distill import LabelGuided, standardize
from sssd.ops import js_distance


class SSSD(LabelGuided):
    """Self-distillation by the Jensen-Shannon distance between the student's maps and K_e.

    The distance of level p is sqrt(JS(softmax(k_p) || softmax(k_e_p))), its mean over the levels is
    what lambda weighs. Unlike the mean squared error of LGD it is bounded (by sqrt(ln 2)) and
    symmetric. Stepwise: lambda changes at the milestones of the learning rate.

    The paper is silent about the softmax axis, N, the reduction inside the root, any normalisation
    before it, and the two values of a stepwise lambda: all are settings, with defaults of our own.
    """

    def distances(self, student: Maps, teacher: Maps) -> tuple[Tensor, Tensor]:
        """Mean JS distance of the levels, and the distance of each (P,)."""
        if self.config.normalize:
            student, teacher = standardize(student), standardize(teacher)
        by_level = js_distance(
            student,
            teacher,
            over=self.config.over,
            temperature=self.config.temperature,
            root=None if self.config.root == "none" else self.config.root,
            elements="mean" if self.config.reduction == "element" else "sum",
            reduction="none",
        )
        return by_level.mean(), by_level

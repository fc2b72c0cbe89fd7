"""Label-guided self-distillation (Zhang et al., AAAI 2022, arXiv 2109.11496)."""

from torch import Tensor

from sssd.detectors import Maps
from sssd.methods.distill import LabelGuided, squared_error, standardize


class LGD(LabelGuided):
    """Self-distillation by the mean squared error between instance-normalised maps.

    One mean over all elements of all levels, which equals twice the cell-weighted mean of
    1 - Pearson correlation.

    The paper trains the fusion by an optimizer of its own with the settings of the student's. One
    optimizer over both is the same: SGD and AdamW move each parameter by its own gradient, and so
    does clipping by value; only clipping by norm would see both together.
    """

    def distances(self, student: Maps, teacher: Maps) -> tuple[Tensor, Tensor]:
        """Mean squared error over all levels, and what each level adds to it (P,)."""
        return squared_error(student, teacher, "cells")

    def sides(self, student: Maps, teacher: Maps) -> tuple[Maps, Maps]:
        """Standardised, as the operator does on the way: see `Distilling.sides`."""
        return standardize(student), standardize(teacher)

"""Gradients that are watched, and gradients that are cut off."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sssd.detectors import Maps
from sssd.distillation import zero_for
from sssd.precision import each_tensor


class GradientShares:
    """Norm of the gradient that each kind of loss sends into each level's map.

    Every kind is given aliases of its own of the maps, whose gradients a hook measures on their way
    down: one backward pass yields all norms. They are zero until it has run, and stay zero for a
    kind that sends nothing.

    Args:
        kinds: names of the kinds; the share is that of the last one.
        maps: P maps (B, C, H_l, W_l).
        measured: without it the norms stay zero and cost nothing; the graph is the same.
    """

    def __init__(self, kinds: Sequence[str], maps: Maps, measured: bool = True) -> None:
        self.kinds = list(kinds)
        self.measured = measured
        self.norms = maps[0].new_zeros(len(kinds), len(maps), dtype=torch.float32)
        self.shares = maps[0].new_zeros(len(maps), dtype=torch.float32)

    def watch(self, kind: str, maps: Maps) -> Maps:
        """Aliases of the maps for the losses of one kind."""
        row = self.kinds.index(kind)

        def alias(level: int, source: Tensor) -> Tensor:
            seen = source.view_as(source)
            if seen.requires_grad and self.measured:
                seen.register_hook(lambda gradient: self._measure(row, level, gradient))
            return seen

        return [alias(level, source) for level, source in enumerate(maps)]

    def metrics(self) -> dict[str, Tensor | float]:
        """Scalars by name, which the backward pass fills in."""
        named: dict[str, Tensor | float] = {
            f"gradient/{kind}/level{i}": norm
            for kind, norms in zip(self.kinds, self.norms, strict=True)
            for i, norm in enumerate(norms.unbind())
        }
        kind = self.kinds[-1]
        return named | {
            f"gradient_share/{kind}/level{i}": s for i, s in enumerate(self.shares.unbind())
        }

    def _measure(self, row: int, level: int, gradient: Tensor) -> None:
        norms = self.norms[:, level]
        norms[row] = torch.linalg.vector_norm(gradient.detach(), dtype=torch.float32)
        tiny = torch.finfo(torch.float32).tiny  # nothing arrived at all: a share of 0
        self.shares[level] = norms[-1] / norms.sum().clamp_min(tiny)


@contextmanager
def without_gradient(module: nn.Module) -> Iterator[None]:
    """Detaches what a module returns; its parameters get gradients of zero.

    It returns a tensor, or tensors in dicts, lists and tuples.

    The hook is taken off again at once: deep copies of the module must not carry it.
    """

    def detach(module: nn.Module, inputs: Any, outputs: Any) -> Any:
        zero = zero_for(module, like=torch.empty(()))
        return each_tensor(lambda x: x.detach() + zero.to(x), outputs)

    handle = module.register_forward_hook(detach)
    try:
        yield
    finally:
        handle.remove()

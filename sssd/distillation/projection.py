"""One width for the maps of a pyramid whose levels differ in width, such as a YOLO's."""

from collections.abc import Sequence

from torch import Tensor, nn

PROJECTED = 128


class Projection(nn.Module):
    """1x1 convolutions to one width and back; nothing where all levels have one width already.

    Args:
        widths: channels C_l of each of P levels, or the number that all have.

    Attributes:
        width: channels after `narrow`.
    """

    def __init__(self, widths: int | Sequence[int]) -> None:
        super().__init__()
        widths = [widths] if isinstance(widths, int) else list(widths)
        differ = len(set(widths)) > 1
        self.width = PROJECTED if differ else widths[0]
        widths = widths if differ else []
        self.reduce = nn.ModuleList(nn.Conv2d(w, self.width, 1) for w in widths)
        self.expand = nn.ModuleList(nn.Conv2d(self.width, w, 1) for w in widths)

    def narrow(self, maps: list[Tensor]) -> list[Tensor]:
        """P maps (B, C_l, H_l, W_l) to P maps (B, width, H_l, W_l)."""
        return _through(self.reduce, maps)

    def widen(self, maps: list[Tensor]) -> list[Tensor]:
        """P maps (B, width, H_l, W_l) to P maps (B, C_l, H_l, W_l)."""
        return _through(self.expand, maps)


def _through(convolutions: nn.ModuleList, maps: list[Tensor]) -> list[Tensor]:
    if not convolutions:
        return maps
    if len(maps) != len(convolutions):
        raise ValueError(f"maps: {len(maps)} levels, but width has {len(convolutions)}")
    return [convolve(m) for convolve, m in zip(convolutions, maps, strict=True)]

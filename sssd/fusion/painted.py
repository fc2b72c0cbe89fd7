"""The cheap fusion component: labels painted onto every level, fused by two small convolutions."""

import torch.nn.functional as F
from torch import Tensor, nn

from sssd.fusion.layers import normalize_map, separable3x3
from sssd.fusion.objects import Objects, add_context, descriptors, paint_objects


class PaintedFusion(nn.Module):
    """Label-enhanced maps K_e from painted label embeddings and the maps K.

    K_e = norm(conv(relu(norm(conv(K)) + paint(norm(embed(label, box)))))), shared by all levels:
    both parts of the sum have unit variance, so that neither drowns the other. It has neither
    attention nor pooling, and two separable convolutions where `RelationFusion` has five full ones.

    Args:
        num_classes: K of the descriptor's one-hot part.
        width: channels of the maps.
    """

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.embed = nn.Sequential(
            nn.Linear(4 + num_classes, width), nn.ReLU(), nn.Linear(width, width)
        )
        self.features = separable3x3(width)
        self.fuse = separable3x3(width)

    def forward(
        self, maps: list[Tensor], objects: Objects, image_size: tuple[int, int]
    ) -> list[Tensor]:
        """Fuses maps and labels: see `RelationFusion.forward`."""
        rows = add_context(objects, image_size, context=False)
        known = descriptors(rows, self.num_classes, image_size)
        values = self.embed(known.to(next(self.embed.parameters()).dtype))  # (T, C)
        values = F.layer_norm(values, values.shape[-1:])
        painted = paint_objects(values, rows, image_size, maps)
        hidden = [
            F.relu(normalize_map(self.features(m)) + canvas)
            for m, canvas in zip(maps, painted, strict=True)
        ]
        return [normalize_map(self.fuse(x)) for x in hidden]

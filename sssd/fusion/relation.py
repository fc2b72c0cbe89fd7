"""Fusion component of LGD: K and the labels to K_e through the relations between objects."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sssd.fusion.label_encoder import LabelEncoder
from sssd.fusion.layers import conv3x3, normalize_map
from sssd.fusion.objects import Objects, add_context, descriptors, paint_objects, pool_objects


class RelationFusion(nn.Module):
    """Label-enhanced maps K_e from the maps K and the objects of a batch (LGD).

    In an attention among the objects of an image, appearance embeddings (mean of convolved K over
    each object's cells) are the queries, label embeddings the keys and values; the results are
    painted onto the objects' cells and mapped to K_e by convolutions that all levels share. With 80
    classes and width 256 it has 8,304,336 parameters.

    Args:
        num_classes: K of the descriptor's one-hot part.
        width: channels of the maps.
        context: give each image a row that stands for the whole of it.
        detach: keep the teacher's detection losses from reaching the backbone through the
            appearance embeddings.
    """

    def __init__(
        self, num_classes: int, width: int, *, context: bool = True, detach: bool = False
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.context = context
        self.detach = detach
        self.encoder = LabelEncoder(4 + num_classes, width)
        self.appearance = conv3x3(width)
        self.attention = nn.MultiheadAttention(width, num_heads=8, batch_first=True)
        self.object_values = nn.Linear(width, width)
        self.context_values = nn.Linear(width, width) if context else None
        self.painted = conv3x3(width)
        self.mapper = nn.ModuleList(conv3x3(width) for _ in range(3))

    def forward(
        self, maps: list[Tensor], objects: Objects, image_size: tuple[int, int]
    ) -> list[Tensor]:
        """Fuses maps and labels.

        Args:
            maps: P maps (B, width, H_l, W_l).
            objects: the labelled objects, in pixels of the padded batch.
            image_size: (H, W) of the padded batch.

        Returns:
            P maps of the same shapes.
        """
        batch_size = maps[0].shape[0]
        rows = add_context(objects, image_size, context=self.context)
        known = descriptors(rows, self.num_classes, image_size).to(self.object_values.weight.dtype)
        labels = self.encoder(known, rows.image_index, batch_size)  # (T, C)
        sources = [m.detach() for m in maps] if self.detach else maps
        seen = [F.relu(normalize_map(self.appearance(m))) for m in sources]
        looks = pool_objects(seen, rows, image_size)  # (P, T, C)
        related = self._attend(looks.to(labels.dtype), labels, rows)  # (P, T, C)

        is_context = (rows.labels < 0) & self.context  # (T,): without context it is a fake object
        values = self.object_values(related) * (~is_context)[:, None]
        painted = paint_objects(values, rows, image_size, maps)
        fused = [self.painted(canvas) for canvas in painted]
        if self.context_values is not None:
            ambient = values.new_zeros(len(maps), batch_size, values.shape[-1]).index_add(
                1, rows.image_index, self.context_values(related) * is_context[:, None]
            )  # (P, B, C)
            fused = [x + c[:, :, None, None] for x, c in zip(fused, ambient, strict=True)]
        return [self._map(F.relu(x)) for x in fused]

    def _map(self, x: Tensor) -> Tensor:
        first, second, last = self.mapper
        x = F.relu(normalize_map(first(x)))
        x = F.relu(normalize_map(second(x)))
        return normalize_map(last(x))

    def _attend(self, queries: Tensor, keys: Tensor, rows: Objects) -> Tensor:
        """Attention among the rows of each image: (P, T, C) ask (T, C)."""
        levels, _, width = queries.shape
        batch_size, longest = len(rows.counts), max(rows.counts)
        place = rows.image_index * longest + rows.slot  # (T,) in a padded (B, longest)
        padded_keys = keys.new_zeros(batch_size * longest, width).index_copy(0, place, keys)
        padded_queries = queries.new_zeros(levels, batch_size * longest, width)
        padded_queries = padded_queries.index_copy(1, place, queries)
        asked = padded_queries.view(levels, batch_size, longest, width).transpose(0, 1)
        answered = padded_keys.view(batch_size, longest, width)
        padding = torch.ones(batch_size * longest, dtype=torch.bool, device=keys.device)
        padding = padding.index_fill(0, place, False).view(batch_size, longest)
        attended, _ = self.attention(
            asked.reshape(batch_size, levels * longest, width),
            answered,
            answered,
            key_padding_mask=padding,
            need_weights=False,
        )
        by_level = attended.view(batch_size, levels, longest, width).transpose(0, 1)
        return by_level.reshape(levels, batch_size * longest, width)[:, place]

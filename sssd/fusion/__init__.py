"""Fusion components: label-enhanced maps K_e from maps K and labels."""

from sssd.fusion.color_map import ColorMapEncoder
from sssd.fusion.heatmap import HeatmapFusion
from sssd.fusion.objects import Objects, pack_objects
from sssd.fusion.relation import RelationFusion, conv3x3

__all__ = [
    "ColorMapEncoder",
    "HeatmapFusion",
    "Objects",
    "RelationFusion",
    "conv3x3",
    "pack_objects",
]

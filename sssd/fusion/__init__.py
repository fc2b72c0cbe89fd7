"""Fusion components: label-enhanced maps K_e from maps K and labels."""

from sssd.fusion.color_map import ColorMapEncoder
from sssd.fusion.layers import Adapter, normalize_map
from sssd.fusion.objects import Objects, pack_objects
from sssd.fusion.painted import PaintedFusion
from sssd.fusion.relation import RelationFusion

__all__ = [
    "Adapter",
    "ColorMapEncoder",
    "Objects",
    "PaintedFusion",
    "RelationFusion",
    "normalize_map",
    "pack_objects",
]

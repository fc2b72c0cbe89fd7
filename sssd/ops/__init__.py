"""The operators: fused kernels if they are built, plain PyTorch otherwise."""

from sssd.ops.boxes import paint_boxes, pool_boxes
from sssd.ops.dispatch import use_backend
from sssd.ops.divergence import feature_divergence, js_distance, js_divergence
from sssd.ops.explain import explain
from sssd.ops.heatmap import label_heatmap
from sssd.ops.objects import pack_boxes

__all__ = [
    "explain",
    "feature_divergence",
    "js_distance",
    "js_divergence",
    "label_heatmap",
    "pack_boxes",
    "paint_boxes",
    "pool_boxes",
    "use_backend",
]

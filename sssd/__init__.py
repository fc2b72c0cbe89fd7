"""Smooth and stepwise self-distillation for object detection, with fused operators.

The names below are imported when they are first used; `fit` and `load` need `pip install
'sssd[train]'`, the others only torch.
"""

from typing import TYPE_CHECKING

from sssd.lazy import names_of

__version__ = "0.1.0"
__all__ = [
    "attach",
    "detach",
    "feature_divergence",
    "fit",
    "js_distance",
    "load",
]

if TYPE_CHECKING:
    from sssd.engine.runs import load
    from sssd.fitting import fit
    from sssd.integrations import attach, detach
    from sssd.ops import feature_divergence, js_distance
else:
    __getattr__, __dir__ = names_of(
        globals(),
        {
            "sssd.engine.runs": "load",
            "sssd.fitting": "fit",
            "sssd.integrations": "attach detach",
            "sssd.ops": "feature_divergence js_distance",
        },
    )

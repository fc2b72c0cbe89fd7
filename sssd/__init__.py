"""Smooth and stepwise self-distillation for object detection, and the fused operators behind it.

The names below are imported when they are first used, and need torch alone.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["attach", "detach", "feature_divergence", "js_distance"]

if TYPE_CHECKING:
    from sssd.integrations import attach, detach
    from sssd.ops import feature_divergence, js_distance
else:
    _PLACES = {
        "attach": "sssd.integrations",
        "detach": "sssd.integrations",
        "feature_divergence": "sssd.ops",
        "js_distance": "sssd.ops",
    }

    def __getattr__(name):
        if name not in _PLACES:
            raise AttributeError(f"module 'sssd' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(_PLACES[name]), name)

    def __dir__():
        return [*globals(), *__all__]

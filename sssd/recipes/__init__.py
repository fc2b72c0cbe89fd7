"""Named settings of runs."""

from sssd.recipes.config import Config, stretched, without_effect
from sssd.recipes.paper import describe
from sssd.recipes.recipes import RECIPES, SHORTLIST, SSSD_METHOD

__all__ = [
    "RECIPES",
    "SHORTLIST",
    "SSSD_METHOD",
    "Config",
    "describe",
    "stretched",
    "without_effect",
]

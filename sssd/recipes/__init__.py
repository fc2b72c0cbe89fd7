"""Named settings of runs."""

from sssd.recipes.config import Config
from sssd.recipes.recipes import RECIPES

__all__ = ["RECIPES", "Config"]

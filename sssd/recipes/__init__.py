"""Named settings of runs."""

from sssd.recipes.config import Config, describe, stretched
from sssd.recipes.paper import paper
from sssd.recipes.recipes import DEFAULT_RECIPE, RECIPES, SHORTLIST

__all__ = ["DEFAULT_RECIPE", "RECIPES", "SHORTLIST", "Config", "describe", "paper", "stretched"]

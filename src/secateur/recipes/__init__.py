"""Recipes: YAML files that describe a run. They are trusted like code; artefacts are not."""

from .recipe import Recipe, load_recipe, parse_recipe, parse_text, schema
from .samples import Samples
from .shipping import about, shipped, text_of

__all__ = [
    "Recipe",
    "Samples",
    "about",
    "load_recipe",
    "parse_recipe",
    "parse_text",
    "schema",
    "shipped",
    "text_of",
]

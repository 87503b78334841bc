"""Recipes: YAML files that describe a run. They are trusted like code; artefacts are not."""

from importlib.resources import files

from .recipe import Recipe, load_recipe, parse_recipe, schema
from .samples import Samples

__all__ = ["Recipe", "Samples", "load_recipe", "parse_recipe", "schema", "shipped"]


def shipped() -> dict[str, str]:
    """Return the example recipes that come with the package: name -> YAML text.

    >>> "resnet20-cifar10" in shipped()
    True
    """
    folder = files(__package__) / "shipped"
    found = (path for path in folder.iterdir() if path.name.endswith(".yaml"))
    return {path.name.removesuffix(".yaml"): path.read_text() for path in sorted(found, key=lambda p: p.name)}

"""Recipes: YAML files that describe a run. They are trusted like code; artefacts are not."""

from importlib.resources import files

from .schema import Recipe, load_recipe, parse_recipe

__all__ = ["Recipe", "load_recipe", "parse_recipe", "shipped"]


def shipped() -> dict[str, str]:
    """Return the example recipes that come with the package: name -> YAML text.

    >>> "resnet20-cifar10" in shipped()
    True
    """
    folder = files(__package__) / "shipped"
    found = (path for path in folder.iterdir() if path.name.endswith(".yaml"))
    return {path.name.removesuffix(".yaml"): path.read_text() for path in sorted(found, key=lambda p: p.name)}

"""The example recipes that come with the package."""

from __future__ import annotations

from importlib.resources import files

from secateur.ground.errors import UnknownNameError, did_you_mean

__all__ = ["about", "shipped", "text_of"]


def shipped() -> dict[str, str]:
    """Return the shipped recipes: name -> YAML text.

    >>> "resnet20-cifar10" in shipped()
    True
    """
    folder = files("secateur.recipes") / "shipped"
    found = sorted((path for path in folder.iterdir() if path.name.endswith(".yaml")), key=lambda p: p.name)
    return {path.name.removesuffix(".yaml"): path.read_text("utf-8") for path in found}


def text_of(name: str) -> str:
    """Return the YAML text of a shipped recipe.

    Raises:
        UnknownNameError: there is none of that name.
    """
    known, key = shipped(), name.removesuffix(".yaml")
    if key not in known:
        raise UnknownNameError(
            f"There is no recipe file {name}, and no recipe of that name comes with secateur; those that do: "
            f"{', '.join(known)}.{did_you_mean(key, known)}"
        )
    return known[key]


def about(text: str) -> str:
    """Return what a recipe says of itself: its first comment, one line.

    >>> about("# Half of the work.\\nmodel: zoo:resnet20-cifar10\\n")
    'Half of the work.'
    """
    first = text.lstrip().partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""

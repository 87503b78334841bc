"""Functions and classes by name, ``module:callable``: recipes are trusted like code, artefacts are not."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import UnknownNameError, did_you_mean

__all__ = ["can_be_imported", "import_callable", "modules_of", "name_of"]

_FOLDERS: ContextVar[tuple[str, ...]] = ContextVar("secateur_folders", default=())


@contextmanager
def modules_of(*folders: Path) -> Iterator[None]:
    """Let `import_callable` find modules in folders too, inside of the block, behind all that Python finds by itself.

    Nothing else is imported from there: a folder may be that of somebody's artefact. Only if a module that was named
    is in it, the folder stays in `sys.path`, so that this module can go on to import its neighbours.
    """
    token = _FOLDERS.set((*(os.path.abspath(folder) for folder in folders), *_FOLDERS.get()))
    try:
        yield
    finally:
        _FOLDERS.reset(token)


def import_callable(name: str) -> Callable[..., Any]:
    """Import ``module:callable``; the callable may be nested (``package.module:Class.method``).

    Raises:
        UnknownNameError: the module or the callable is not there.

    >>> import_callable("math:sqrt")(4)
    2.0
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise UnknownNameError(f"{name!r} is not of the form module:callable.")
    if module_name == "__main__" or "<" in attribute:
        raise UnknownNameError(
            f"{name} cannot be imported: put it into a module of yours, as a function or class of its own, and name "
            "that."
        )
    try:
        found: Any = _imported(module_name)
    except ModuleNotFoundError as e:
        missing = (
            f"its import of {e.name!r} fails"
            if e.name and not module_name.startswith(e.name)
            else "not found"
        )
        raise UnknownNameError(
            f"Cannot import the module {module_name!r} of {name!r}: {missing}. "
            "Modules are looked up beside the recipe, in the current folder, and among the installed packages."
        ) from e
    for part in attribute.split("."):
        if not hasattr(found, part):
            close, place = did_you_mean(part, dir(found)), getattr(found, "__file__", None)
            which = f" It is the module {place}." if place and not close else ""
            raise UnknownNameError(f"{module_name!r} has no {part!r}.{close}{which}")
        found = getattr(found, part)
    if not callable(found):
        raise UnknownNameError(f"{name} is a {type(found).__name__}, which cannot be called.")
    return found  # type: ignore[no-any-return]


def _imported(name: str) -> ModuleType:
    folders = [folder for folder in _FOLDERS.get() if folder not in sys.path]
    sys.path.extend(folders)
    if folders:
        importlib.invalidate_caches()  # a file there may be new
    try:
        return importlib.import_module(name)
    finally:
        home = _home(sys.modules.get(name.partition(".")[0]))
        for folder in folders:
            if folder != home and folder in sys.path:
                sys.path.remove(folder)


def _home(module: ModuleType | None) -> str | None:
    """Return the folder that a module or a package lies in."""
    place: str | None = getattr(module, "__file__", None)
    if place is None:  # built in, or a package without __init__.py
        place = next(iter(getattr(module, "__path__", ())), None)
        return None if place is None else os.path.dirname(os.path.abspath(place))
    folder = os.path.dirname(os.path.abspath(place))
    return os.path.dirname(folder) if hasattr(module, "__path__") else folder


def name_of(value: Any) -> str | None:
    """Return ``module:qualname`` of a function or class, also where no import finds it (a lambda); else None.

    A method that is bound to an object has no name: the object is missing in it.

    >>> import math
    >>> name_of(math.sqrt), name_of(dict.fromkeys), name_of("text".upper), name_of(3)
    ('math:sqrt', 'builtins:dict.fromkeys', None, None)
    """
    name, owner = getattr(value, "__qualname__", None), getattr(value, "__self__", None)
    if name is None or not (owner is None or isinstance(owner, type | ModuleType)):
        return None
    module = getattr(value, "__module__", None) or getattr(owner, "__module__", "builtins")
    return f"{module}:{name}"


def can_be_imported(value: Any) -> bool:
    """Return whether a function or class is found again by its name, in another program too.

    >>> import math
    >>> can_be_imported(math.sqrt), can_be_imported(lambda: 1)
    (True, False)
    """
    name = name_of(value)
    if name is None:
        return False
    try:
        return bool(import_callable(name) == value)
    except UnknownNameError:
        return False

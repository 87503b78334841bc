"""One self-contained HTML page of a run, or of several beside each other: no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from secateur.ground.errors import ArtefactError
from secateur.ground.files import write_whole

from . import charts, rows, text, units, view
from .findings import Findings

__all__ = ["environment", "fragment", "page", "write_page"]


def page(reports: Mapping[str, Findings]) -> str:
    """Return the page of one report, or of several compared, by name.

    Raises:
        ValueError: there is no report.
    """
    if not reports:
        raise ValueError("a page needs at least one report")
    found = list(reports.values())
    names = {key: tile.name for one in found for key, tile in view.tiles(one).items()}
    return (
        environment()
        .get_template("page.html")
        .render(
            runs=[
                {"number": n, "name": name, "found": one} for n, (name, one) in enumerate(reports.items(), 1)
            ],
            columns=dict(sorted(names.items(), key=lambda entry: entry[0] != "latency")),  # time first
            drawings=charts.score_charts([(str(n), one) for n, one in enumerate(found, 1)])
            if found[1:]
            else (),
            remarks=list(view.remarks(found)),
            version=_version(),
        )
    )


def fragment(found: Findings) -> str:
    """Return the table of a run as a piece of HTML without a style of its own, for notebooks."""
    return environment().get_template("notebook.html").render(found=found)


def write_page(path: str | PathLike[str], html: str) -> Path:
    """Write a page as a whole or not at all, and return its path.

    Raises:
        ArtefactError: the file cannot be written there.
    """
    write_whole(Path(path), html.encode(), ArtefactError)
    return Path(path)


@cache
def environment() -> Environment:
    """Return what renders the templates: it escapes everything, and forgives no name that is not there."""
    made = Environment(
        loader=PackageLoader("secateur.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["typeset"] = units.typeset
    made.globals |= {"charts": charts, "rows": rows, "text": text, "units": units, "view": view}
    return made


def _version() -> str:
    try:
        return version("secateur")
    except PackageNotFoundError:
        return ""

"""One self-contained HTML page of a run, or of several beside each other: no script, nothing fetched."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from os import PathLike
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from secateur.ground.errors import ArtefactError

from .charts import accuracy_charts
from .report import Report
from .view import remarks, views

__all__ = ["page", "write_page"]


def page(reports: Mapping[str, Report]) -> str:
    """Return the page of one report, or of several compared, by name.

    Raises:
        ValueError: there is no report.
    """
    if not reports:
        raise ValueError("a page needs at least one report")
    runs = views(reports)
    together = [(str(run.number), run.report) for run in runs]
    return (
        _environment()
        .get_template("page.html")
        .render(
            runs=runs,
            charts=accuracy_charts(together) if len(runs) > 1 else (),
            remarks=list(remarks(list(reports.values()))),
            # The sheet is the package's own text; quotes in it are not for escaping.
            style=Markup((files("secateur.report") / "templates" / "page.css").read_text("utf-8")),
            version=_version(),
        )
    )


def write_page(path: str | PathLike[str], text: str) -> Path:
    """Write a page as a whole or not at all, and return its path.

    Raises:
        ArtefactError: the file cannot be written there.
    """
    path = Path(path)
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise ArtefactError(f"the report cannot be written to {path}: {error.strerror or error}") from None
    return path


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("secateur.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _version() -> str:
    try:
        return version("secateur")
    except PackageNotFoundError:
        return ""

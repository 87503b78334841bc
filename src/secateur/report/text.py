"""A report for terminals: one table and what has to be known to read it, with nothing in it that a terminal obeys."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from secateur.ground.errors import printable

from .findings import Findings
from .rows import HEAD, Row, lines, rows, slower
from .units import capital

__all__ = [
    "as_text",
    "history",
    "notes",
    "plain",
    "printed",
    "recipe_text",
    "shown",
    "summary",
    "table",
    "title",
]


def plain(text: str) -> str:
    r"""Return text with control characters, and marks that turn the direction of writing, as escapes.

    >>> plain("conv\x1b[31m")
    'conv\\x1b[31m'
    """
    return printable(text)


def title(found: Findings) -> str:
    """Say what was done, in a line."""
    return f"{found.method}, budget {found.budget}, seed {found.seed}"


def summary(found: Findings) -> str:
    """Say what was gained, in a line: ratios of the costs, and the score from the dense to the last."""
    ratios = [f"{row.name} {row.change}" for row in rows(found) if row.ratio]
    if found.scores:
        steps = [found.metric.text(value) for _, value in found.scores.steps()]
        ratios.append(f"{found.metric.name} {' -> '.join(dict.fromkeys((steps[0], steps[-1])))}")
    return "; ".join(ratios)


def table(found: Iterable[Row]) -> Table:
    """Return rows as a table; networks that stand alone need no head and one column."""
    listed = list(found)
    alone = not any(row.ratio or row.pruned for row in listed)
    made = Table(box=None if alone else SIMPLE_HEAD, show_header=not alone, pad_edge=False)
    for name in HEAD[: 2 if alone else 4]:
        made.add_column(name, justify="right" if name else "left")
    for line in lines(listed):
        made.add_row(*(Text(plain(cell)) for cell in line[: len(made.columns)]))
    return made


def notes(found: Iterable[Row]) -> list[str]:
    """Return what has to be known to read rows, once where several share it."""
    named: dict[str, list[str]] = {}
    for row in found:
        if row.note:
            named.setdefault(row.note, []).append(row.name.partition(",")[0])
    return [f"{capital(' and '.join(dict.fromkeys(names)))}: {note}." for note, names in named.items()]


def shown(found: Iterable[Row]) -> Group:
    """Return rows as a table, with their notes below."""
    listed = list(found)
    return Group(table(listed), *(Text(plain(note)) for note in notes(listed)))


def as_text(found: Findings) -> Group:
    """Return everything that a terminal shows of a run."""
    e = found.environment
    commit = f" ({e.commit})" if e.commit else ""
    time = ", ".join(f"{name} {value:.1f} s" for name, value in found.seconds.items())
    said = [
        f"Masked and shrunk outputs differ by at most {found.max_masked_difference:.1e}.",
        *(f"Warning: {fault}" for fault in slower(found)),
        *history(found),
        *(f"Limit: {limit}" for limit in found.limits),
        *([f"Time: {time}."] if time else []),
        f"secateur {e.secateur}{commit}, torch {e.torch}, Python {e.python}, {e.cpu}.",
    ]
    return Group(Text(plain(title(found))), shown(rows(found)), *(Text(plain(line)) for line in said))


def history(found: Findings) -> list[str]:
    """Say what the dense network of a report is, where it was pruned before."""
    first, after = found.original, found.after
    if first is None:
        return []
    shares = [
        f"{name} {now / was:.3f}"
        for name, was, now in (
            ("parameters", first.params, after.params),
            ("MACs", first.macs, after.macs),
            ("bytes", first.bytes, after.bytes),
        )
        if was
    ]
    return [
        "Dense is a network that was pruned before (the original was not given, as dense=...). "
        f"Of the original are left: {', '.join(shares)}."
    ]


def printed(what: RenderableType, width: int = 100) -> str:
    """Return what a terminal of that width would show, without colours."""
    buffer = io.StringIO()
    Console(file=buffer, width=width, no_color=True, highlight=False).print(what)
    return "\n".join(line.rstrip() for line in buffer.getvalue().strip("\n").splitlines())


def recipe_text(recipe: Mapping[str, Any]) -> str:
    """Return a recipe as YAML; what is not plain data is shown all the same, and refused when saved."""
    data = json.loads(json.dumps(dict(recipe), default=str))
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True) if data else ""

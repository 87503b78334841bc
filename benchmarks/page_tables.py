"""Results files as tables in Markdown: as they are, crossed, or with means over seeds; and how figures are written."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean

__all__ = [
    "Format",
    "Row",
    "accuracy",
    "brief",
    "crossed",
    "markdown",
    "means",
    "percent",
    "plain",
    "rows",
    "short",
    "spread",
    "whole",
]

RESULTS = Path("results")
Row = Mapping[str, str]


def rows(name: str) -> list[dict[str, str]]:
    """Return the rows of a results file."""
    with (RESULTS / f"{name}.csv").open(newline="") as f:
        return list(csv.DictReader(f))


def spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{mean(values):.2f}" + (f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else "")


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body)]


def percent(value: str) -> str:
    """Write a share as per cent."""
    return f"{float(value):.1%}" if value else ""


def accuracy(value: str) -> str:
    """Write a share as an accuracy."""
    return f"{100 * float(value):.2f}" if value else ""


def short(value: str) -> str:
    """Write a number with three digits."""
    return f"{float(value):.3g}" if value else ""


def whole(value: str) -> str:
    """Write a number without its fraction."""
    return f"{float(value):.0f}"


def brief(answer: str) -> str:
    """Write an answer as yes, or as who refuses or fails: the reason is in the results file."""
    if answer.startswith("refused: the dense network"):
        return "dense neither"
    return answer.partition(":")[0]


Format = Callable[[str], str]


def plain(name: str, columns: Mapping[str, tuple[str, Format]]) -> str:
    """Return a results file as it is, some of its columns, by name: heading and format."""
    body = [[form(r[column]) for column, (_, form) in columns.items()] for r in rows(name)]
    return "\n".join([*markdown([heading for heading, _ in columns.values()], body), ""])


def crossed(name: str, down: str, across: str, value: str) -> str:
    """Return a results file as a table of accuracies, one column by row and another by column."""
    found = rows(name)
    heads = sorted({r[across] for r in found}, key=float)
    cells: dict[tuple[str, str], list[float]] = defaultdict(list)
    for r in found:
        cells[r[down], r[across]].append(100 * float(r[value]))
    body = [
        [key, *(spread(cells.get((key, head), [])) for head in heads)]
        for key in dict.fromkeys(r[down] for r in found)
    ]
    return "\n".join([*markdown([down, *heads], body), ""])


def means(name: str, cell: Mapping[str, str], columns: Mapping[str, tuple[str, Format]]) -> str:
    """Return a results file by cell, heading by column, with means (and ranges of the first figure) over its seeds."""
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for r in rows(name):
        groups[tuple(r[column] for column in cell)].append(r)
    body = []
    for key, own in groups.items():
        figures = [form(str(mean(float(r[column]) for r in own))) for column, (_, form) in columns.items()]
        values = [float(r[next(iter(columns))]) for r in own]
        if len(own) > 1:
            figures[0] += f" ({min(values):.3g} to {max(values):.3g})"
        body.append([*key, str(len(own)), *figures])
    heads = [*cell.values(), "seeds", *(heading for heading, _ in columns.values())]
    return "\n".join([*markdown(heads, body), ""])

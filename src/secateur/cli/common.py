"""What commands share: options, and how they speak."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from secateur.ground.errors import LAYOUT
from secateur.ground.errors import printable as escaped

__all__ = [
    "INPUT",
    "JSON",
    "THREADS",
    "numbers",
    "printable",
    "refused",
    "say",
    "show",
    "show_json",
    "silent",
    "sizes",
]

JSON = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else.")
]
INPUT = Annotated[
    str | None,
    typer.Option("--input", metavar="N,C,H,W", help="Shape of one input batch, for instance 1,3,224,224."),
]
THREADS = Annotated[
    int | None, typer.Option(min=1, help="Threads that torch may use, at most four for each processor.")
]


def sizes(shape: str | None) -> tuple[int, ...] | None:
    """Return the sizes that ``--input`` gives."""
    if shape is None:
        return None
    found = numbers("--input", shape)
    if min(found) < 1:
        raise typer.BadParameter(f"--input {shape}: expected sizes such as 1,3,224,224")
    return found


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Return the numbers that an option lists."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = (-1,)
    if min(found) < 0:
        raise typer.BadParameter(f"{option} {text}: expected numbers such as 1,3,224,224")
    return found


def printable(text: str) -> str:
    """Return a text without what a terminal obeys: names in files may be anything, escape sequences too.

    >>> printable("a\\x1b[2Jb"), printable("two\\nlines")
    ('a\\\\x1b[2Jb', 'two\\nlines')
    """
    return escaped(text, keep=LAYOUT)


def refused(message: str) -> typer.BadParameter:
    """Return the error of wrong usage, whose message may have names from files in it."""
    return typer.BadParameter(printable(message))


def say(message: str) -> None:
    """Speak on standard error, which is not part of the answer."""
    print(printable(message), file=sys.stderr, flush=True)


def silent(message: str) -> None:
    """Say nothing."""


def show(what: Any) -> None:
    """Print text, a table or a report on standard output."""
    if isinstance(what, str):
        print(printable(what))
        return
    from rich.console import Console

    Console(highlight=False).print(_Printable(what), markup=False)


def show_json(data: dict[str, Any]) -> None:
    """Print one JSON object on standard output."""
    print(json.dumps(data, indent=2, allow_nan=False))


@dataclass(frozen=True)
class _Printable:
    """Something to print whose texts are made printable, and whose colours stay."""

    what: Any

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.segment import Segment

        for segment in console.render(self.what, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)

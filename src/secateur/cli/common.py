"""What commands share: options, models by name, and how they speak."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

__all__ = ["INPUT", "JSON", "THREADS", "model_of", "numbers", "say", "show", "show_json", "silent", "sizes"]

JSON = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else.")
]
INPUT = Annotated[
    str | None,
    typer.Option("--input", metavar="N,C,H,W", help="Shape of one input batch, for instance 1,3,224,224."),
]
THREADS = Annotated[int | None, typer.Option(min=1, help="Threads that torch may use.")]


def model_of(name: str, shape: str | None) -> tuple[Any, Any]:
    """Make a model and an example input for it."""
    from secateur.recipes.models import example_input, resolve_model
    from secateur.recipes.recipe import ModelSpec

    made = resolve_model(ModelSpec(name=name))
    return made, example_input(name, sizes(shape))


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


def say(message: str) -> None:
    """Speak on standard error, which is not part of the answer."""
    print(message, file=sys.stderr, flush=True)


def silent(message: str) -> None:
    """Say nothing."""


def show(what: Any) -> None:
    """Print text, a table or a report on standard output."""
    from rich.console import Console

    Console(highlight=False, soft_wrap=isinstance(what, str)).print(what, markup=False)


def show_json(data: dict[str, Any]) -> None:
    """Print one JSON object on standard output."""
    print(json.dumps(data, indent=2, allow_nan=False))

"""Commands about recipes: ``recipes`` and ``schema``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import JSON, show

__all__ = ["recipes", "schema"]


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="A shipped recipe to print, to start from.", show_default=False)
    ] = None,
    as_json: JSON = False,
) -> dict[str, Any] | None:
    """List the recipes that come with secateur, or print one.

    [bold]Examples[/bold]

      secateur recipes

      secateur recipes resnet20-cifar10 > mine.yaml
    """
    from secateur.recipes import about, shipped, text_of

    found = {name: text_of(name)} if name is not None else shipped()
    if as_json:
        return {"recipes": [{"name": n, "about": about(text), "text": text} for n, text in found.items()]}
    if name is not None:
        print(found[name], end="")
        return None
    from rich.table import Table

    table = Table("", "", box=None, show_header=False, pad_edge=False)
    for key, text in found.items():
        table.add_row(key, about(text))
    show(table)
    show("secateur prune NAME runs one, secateur recipes NAME prints it.")
    return None


def schema(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The file to write; without it standard output.", show_default=False
        ),
    ] = None,
    as_json: JSON = False,
) -> dict[str, Any] | None:
    """Print the JSON schema of recipes, with which editors complete and check them.

    A recipe that begins with "# yaml-language-server: $schema=recipe.schema.json" is checked by it.

    [bold]Examples[/bold]

      secateur schema --output recipe.schema.json
    """
    from secateur.recipes import schema as schema_of_recipes

    found = schema_of_recipes()
    if output is None:
        return found
    output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if as_json:
        return {"output": str(output)}
    show(f"Wrote {output}.")
    return None

"""The program that commands are part of: its name, its help, and how it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from secateur.ground.errors import SecateurError
from secateur.measure.allocator import keep_memory

__all__ = ["app", "main"]

app = typer.Typer(
    name="secateur",
    help="Makes trained PyTorch networks really smaller and really faster, and proves it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 an error with one line on standard error, 2 wrong usage."""
    # Console scripts do not look for modules where the user stands; recipes and models may name hers.
    sys.path.insert(0, os.getcwd())
    keep_memory()
    try:
        app(args=None if arguments is None else list(arguments), prog_name="secateur")
    except SecateurError as e:
        print(f"secateur: {' '.join(str(e).split())}", file=sys.stderr)
        raise SystemExit(1) from None


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"secateur {version('secateur')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass

"""The program that commands are part of: its name, its help, how a command runs, and how it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.ground.errors import SecateurError
from secateur.ground.importing import modules_of

from .common import say, show_json

__all__ = ["app", "command", "main"]

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
    try:
        app(args=None if arguments is None else list(arguments), prog_name="secateur")
    except (SecateurError, OSError) as e:
        say(f"secateur: {' '.join(str(e).split())}")
        raise SystemExit(1) from None


def command(function: Callable[..., dict[str, Any] | None]) -> None:
    """Make a function a command; what it returns is its answer to ``--json``.

    ``module:callable`` is found in the current folder as well, behind all other modules. With ``--json`` whatever else
    is printed, by functions of the user's for instance, goes to standard error.
    """

    @wraps(function)
    def run(*args: Any, **options: Any) -> None:
        from secateur.measure.allocator import keep_memory

        keep_memory()
        with modules_of(Path.cwd()), _answer_alone() if options.get("as_json") else nullcontext():
            found = function(*args, **options)
        if found is not None:
            show_json(found)

    app.command(function.__name__)(run)


@contextmanager
def _answer_alone() -> Iterator[None]:
    """Send all that is printed to standard error, by Python, by libraries and by other programs."""
    sys.stdout.flush()
    output = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdout.flush()  # what was printed there past the redirection
        os.dup2(output, 1)
        os.close(output)


def _version(wanted: bool) -> None:
    if wanted:
        from secateur import __version__

        print(f"secateur {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass

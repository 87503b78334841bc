"""Progress bars with the time that is left, on a terminal; silent everywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from rich.console import Console
from rich.errors import LiveError
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["counting", "silenced", "track", "working"]

T = TypeVar("T")

_SILENT: ContextVar[bool] = ContextVar("secateur_silent", default=False)


@contextmanager
def silenced(silent: bool = True) -> Iterator[None]:
    """Show no bars inside of the block.

    >>> with silenced():
    ...     list(track([1, 2], "counting"))
    [1, 2]
    """
    token = _SILENT.set(_SILENT.get() or silent)
    try:
        yield
    finally:
        _SILENT.reset(token)


def track(
    iterable: Iterable[T], label: str, total: int | None = None, *, console: Console | None = None
) -> Iterator[T]:
    """Yield what `iterable` yields and show a bar on standard error, if that is a terminal.

    `total` is the number of items (default: the length, where there is one); without it the bar has no end.
    A bar inside of another one may not be shown. A bar goes away when it is done.
    """
    console = console or Console(stderr=True)
    if _SILENT.get() or not console.is_terminal:
        yield from iterable
        return
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)
    try:
        progress.start()
    except LiveError:  # another bar is on the screen
        yield from iterable
        return
    try:
        yield from progress.track(iterable, total=total, description=label)
    finally:
        progress.stop()


@contextmanager
def counting(
    label: str, total: int | None, done: int = 0, *, console: Console | None = None
) -> Iterator[Callable[[str], None]]:
    """Show a bar as `track` does, for work that is not one loop: give a function that counts one more.

    The function takes a text to stand behind the label.
    """
    console = console or Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)
    task = progress.add_task(label, total=total, completed=done)
    shown = not _SILENT.get() and console.is_terminal
    try:
        if shown:
            progress.start()
    except LiveError:  # a bar is on the screen
        shown = False
    try:
        yield lambda text: progress.update(task, advance=1, description=f"{label}, {text}")
    finally:
        if shown:
            progress.stop()


@contextmanager
def working(label: str, *, console: Console | None = None) -> Iterator[None]:
    """Show that something of unknown length is going on, and for how long, as `track` does."""
    console = console or Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    progress = Progress(*columns, console=console, transient=True)
    progress.add_task(label, total=None)
    shown = not _SILENT.get() and console.is_terminal
    try:
        if shown:
            progress.start()
    except LiveError:  # a bar is on the screen
        shown = False
    try:
        yield
    finally:
        if shown:
            progress.stop()

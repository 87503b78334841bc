"""Progress with the time that is left: bars on a terminal and in notebooks, lines of a log everywhere else.

One display is on the screen at a time; what is inside of what goes on has a line of its own below it. Where nobody
looks, the logger ``secateur`` says what begins and what took long (level INFO; the command line shows it).
"""

from __future__ import annotations

import logging
import time
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
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

__all__ = ["counting", "said", "silenced", "track", "working"]

T = TypeVar("T")

LONG = 2.0  # seconds; what takes longer is worth a line
OFTEN = 30.0  # seconds between lines of one piece of work

_SILENT: ContextVar[bool] = ContextVar("secateur_silent", default=False)
_SHOWN: ContextVar[Progress | None] = ContextVar("secateur_shown", default=None)
_log = logging.getLogger("secateur")


@contextmanager
def silenced(silent: bool = True) -> Iterator[None]:
    """Show nothing inside of the block.

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
    """Yield what `iterable` yields and show how far it is.

    `total` is the number of items (default: the length, where there is one); without it the bar has no end. A bar goes
    away when it is done.
    """
    if total is None and isinstance(iterable, Sized):
        try:
            total = len(iterable)
        except TypeError:  # a DataLoader over a stream
            total = None
    with counting(label, total, console=console) as advance:
        for item in iterable:
            yield item
            advance("")


@contextmanager
def counting(
    label: str, total: int | None, done: int = 0, *, console: Console | None = None
) -> Iterator[Callable[[str], None]]:
    """Show how far work is that is not one loop: give a function that counts one more.

    The function takes a text to stand behind the label.
    """
    if _SILENT.get():
        yield lambda text: None
        return
    start, said, count = time.monotonic(), time.monotonic(), done
    with _display(console) as progress:
        task = None if progress is None else progress.add_task(label, total=total, completed=done)

        def advance(text: str) -> None:
            nonlocal said, count
            count += 1
            now = f"{label}, {text}" if text else label
            if progress is not None and task is not None:
                progress.update(task, advance=1, description=now)
            elif time.monotonic() - said > OFTEN:
                said = time.monotonic()
                _log.info("%s: %s", now, _left(count, total, done, said - start))

        try:
            yield advance
        finally:
            if progress is not None and task is not None:
                progress.refresh()  # the last count is seen as well
                progress.remove_task(task)


@contextmanager
def working(label: str, *, console: Console | None = None) -> Iterator[None]:
    """Show that something of unknown length goes on, and for how long."""
    if _SILENT.get():
        yield
        return
    start = time.monotonic()
    with _display(console) as progress:
        task = None if progress is None else progress.add_task(label, total=None, open=True)
        if progress is None:
            _log.info("%s ...", label)
        try:
            yield
        finally:
            if progress is not None and task is not None:
                progress.remove_task(task)
            elif time.monotonic() - start > LONG:
                _log.info("%s: done in %.1f s", label, time.monotonic() - start)


def said(text: str, *, console: Console | None = None) -> None:
    """Say something once: above the bars where they are seen, in the log everywhere else."""
    if _SILENT.get():
        return
    shown = _SHOWN.get()
    console = shown.console if shown is not None else console or Console(stderr=True)
    if console.is_terminal or console.is_jupyter:
        console.print(text, highlight=False, markup=False)
    else:
        _log.info("%s", text)


class _Count(MofNCompleteColumn):
    """How many of how many, where there is anything to count."""

    def render(self, task: Task) -> Text:
        return Text() if task.fields.get("open") else super().render(task)


@contextmanager
def _display(console: Console | None) -> Iterator[Progress | None]:
    """Give the display that is on the screen, else start one; None where nobody would see it."""
    if (shown := _SHOWN.get()) is not None:
        yield shown
        return
    console = console or Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        yield None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), _Count())
    progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)
    try:
        progress.start()
    except LiveError:  # somebody else's is on the screen
        yield None
        return
    token = _SHOWN.set(progress)
    try:
        yield progress
    finally:
        try:
            _SHOWN.reset(token)
        except ValueError:  # a generator that was closed from elsewhere
            _SHOWN.set(None)
        progress.stop()


def _left(count: int, total: int | None, done: int, seconds: float) -> str:
    """Say how far work is, and how long it will still take."""
    if total is None:
        return f"{count} so far, {seconds:.0f} s"
    rest = seconds * (total - count) / max(count - done, 1)
    return f"{count} of {total}, {seconds:.0f} s, about {rest:.0f} s left"

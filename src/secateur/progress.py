"""Progress bars with an estimate of what is left, for everything that takes longer than a moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

__all__ = ["quiet", "track"]

T = TypeVar("T")

_enabled: ContextVar[bool] = ContextVar("secateur_progress", default=True)


@contextmanager
def quiet(silent: bool = True) -> Iterator[None]:
    """Show no progress bars inside the block."""
    token = _enabled.set(not silent and _enabled.get())
    try:
        yield
    finally:
        _enabled.reset(token)


def track(iterable: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yield the items of `iterable`, with a bar on the standard error stream if that is a terminal.

    >>> list(track([1, 2, 3], "counting"))
    [1, 2, 3]
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not _enabled.get() or not console.is_terminal:
        yield from iterable
        return
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(label, total=total)
        for item in iterable:
            yield item
            progress.advance(task)

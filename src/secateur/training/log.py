"""What a run reports while it goes: a CSV file, and TensorBoard's event files where that package is installed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from secateur.ground.errors import CheckpointError
from secateur.ground.files import write_whole

__all__ = ["Log", "Row"]


@dataclass(frozen=True)
class Row:
    """One validation, or one epoch where nothing is validated."""

    step: int  # optimiser steps so far
    round: int  # from 1; 0 is the dense model
    epoch: int  # of the round, from 1
    loss: float | None  # mean since the last row
    rate: float | None  # learning rate of the first group
    metric: float | None  # on the validation data
    share: float  # of the connections that are kept
    seconds: float  # of the run so far, over resumes
    # Of methods that pull towards blocks, when their choice was last renewed (see `methods.admm.Residual`):
    rho: float | None = None
    primal: float | None = None
    dual: float | None = None
    same: float | None = None
    magnitude: float | None = None


class Log:
    """Writes rows into a folder; made again by a resumed run, it goes on behind the rows of its checkpoint."""

    def __init__(self, folder: Path, rows: Iterable[Row]) -> None:
        path = folder / "log.csv"
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, [f.name for f in fields(Row)])
        writer.writeheader()
        last = -1
        for row in rows:
            writer.writerow(asdict(row))
            last = row.step
        write_whole(path, text.getvalue().encode(), CheckpointError)
        self._file = path.open("a", newline="")
        self._events = _events(folder / "tensorboard", last + 1)

    def add(self, row: Row) -> None:
        """Write one row."""
        csv.DictWriter(self._file, [f.name for f in fields(Row)]).writerow(asdict(row))
        self._file.flush()
        if self._events is not None:
            for name in ("loss", "rate", "metric", "share", "rho", "primal", "dual", "same", "magnitude"):
                if (value := getattr(row, name)) is not None:
                    self._events.add_scalar(f"training/{name}", value, row.step)
            self._events.flush()

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()


def _events(folder: Path, first: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:  # an extra
        return None
    return SummaryWriter(str(folder), purge_step=first or None)

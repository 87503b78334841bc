"""A results table that grows by cells: finished rows are appended, those present are skipped."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from secateur.measure import environment

Key = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A CSV file with fixed columns, of which the first few name the cell."""

    path: Path
    keys: Sequence[str]
    columns: Sequence[str]

    def present(self) -> set[Key]:
        """Return the keys of all rows that are there."""
        if not self.path.exists():
            return set()
        with self.path.open(newline="") as f:
            return {tuple(row[k] for k in self.keys) for row in csv.DictReader(f)}

    def provenance(self, command: str) -> dict[str, object]:
        """Return where a row is from, in those columns of its kind that the table has besides its keys."""
        known: dict[str, object] = asdict(environment()) | {"command": command}
        return {k: v for k, v in known.items() if k in self.columns and k not in self.keys}

    def append(self, row: Mapping[str, object]) -> None:
        """Write one finished row; the file is never left with half a line."""
        unknown = set(row) - set(self.columns)
        if unknown:
            raise KeyError(f"no such columns: {sorted(unknown)}")
        new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="") as f:
            writer = csv.DictWriter(f, list(self.columns), restval="")
            if new:
                writer.writeheader()
            writer.writerow({k: format_value(v) for k, v in row.items()})
            f.flush()
            os.fsync(f.fileno())


def format_value(value: object) -> object:
    """Write floats with few digits, and None as an empty cell."""
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else value

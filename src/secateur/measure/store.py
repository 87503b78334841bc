"""Times on disk: what was measured on this processor, with this torch and so many threads, is not measured again."""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from secateur.ground.files import write_whole

from .environment import environment

__all__ = ["Conditions", "Times", "cache_folder", "read_times", "write_times"]

VERSION = 1  # of the file's form, and of how operations are timed
K = TypeVar("K")


@dataclass(frozen=True)
class Conditions:
    """What times hold for."""

    cpu: str
    torch: str
    threads: int
    batch: int

    @property
    def file_name(self) -> str:
        """A name that other conditions do not have."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:20] + ".json"


def cache_folder() -> Path:
    """Return the folder of measured times: ``secateur/latency`` in ``$XDG_CACHE_HOME``, else in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "secateur" / "latency"


def read_times(folder: Path, conditions: Conditions) -> dict[str, float]:
    """Return milliseconds by operation; nothing where the file is missing, damaged, or of another form."""
    try:
        data = json.loads((folder / conditions.file_name).read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(data, dict) or data.get("version") != VERSION:
        return {}
    times = data.get("ms")
    if data.get("conditions") != asdict(conditions) or not isinstance(times, dict):
        return {}
    return {
        key: float(ms)
        for key, ms in times.items()
        if isinstance(ms, int | float) and not isinstance(ms, bool) and math.isfinite(ms) and ms > 0
    }


def write_times(folder: Path, conditions: Conditions, times: Mapping[str, float]) -> None:
    """Add times to those on disk; the file is replaced as a whole.

    Raises:
        OSError: the folder cannot be written.
    """
    merged = read_times(folder, conditions) | dict(times)
    text = json.dumps({"version": VERSION, "conditions": asdict(conditions), "ms": merged}, indent=1)
    write_whole(folder / conditions.file_name, text.encode(), OSError)


class Times:
    """Milliseconds by text, from a folder where they are known; what is measured besides is kept there."""

    def __init__(self, folder: Path, conditions: Conditions) -> None:
        self.folder, self.conditions = folder, conditions
        self.known, self._fresh = read_times(folder, conditions), dict[str, float]()

    @staticmethod
    def here(folder: Path, batch: int, on_device: bool = False) -> Times:
        """Return what is known of this processor, or of the GPU beside it, with the threads that torch has now."""
        now = environment()
        where = now.accelerator if on_device else now.cpu
        return Times(folder, Conditions(where, now.torch, now.threads, batch))

    def of(self, keys: Mapping[K, str], measure: Callable[[], Mapping[K, float]]) -> dict[K, float]:
        """Return the time of each thing under the text that stands for it; all are measured if one is not known."""
        if any(key not in self.known for key in keys.values()):
            self._fresh |= {keys[name]: ms for name, ms in measure().items()}
            self.known |= self._fresh
        return {name: self.known[key] for name, key in keys.items()}

    def keep(self) -> None:
        """Write what was measured; where that cannot be, warn."""
        if self._fresh:
            try:
                write_times(self.folder, self.conditions, self._fresh)
            except OSError as error:
                warnings.warn(f"Times cannot be kept in {self.folder}: {error}", stacklevel=3)

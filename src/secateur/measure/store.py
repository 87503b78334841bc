"""Times on disk: what was measured on this processor, with this torch and so many threads, is not measured again."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from secateur.ground.files import write_whole

__all__ = ["Conditions", "cache_folder", "read_times", "write_times"]

VERSION = 1  # of the file's form, and of how operations are timed


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

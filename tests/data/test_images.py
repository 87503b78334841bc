import gzip
import io
import json
import subprocess
import tarfile
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from secateur.data import DATASETS, calibration, calibration_index, held_out, images, load_images
from secateur.data.decode import Arrays, cifar_archive, idx
from secateur.data.fetch import DebianPackage, Download, NpmPackage
from secateur.ground.errors import DataError, UnknownNameError


def encode_idx(a: np.ndarray) -> bytes:
    return bytes([0, 0, 8, a.ndim]) + b"".join(n.to_bytes(4, "big") for n in a.shape) + a.tobytes()


def small(size: int, channels: int, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    x, xt = (rng.integers(0, 256, (n, size, size, channels), dtype=np.uint8) for n in (12, 5))
    return Arrays(x, rng.integers(0, 10, 12), xt, rng.integers(0, 10, 5))


def write_idx(folder: Path, arrays: Arrays, compressed: bool = True) -> None:
    parts = {
        "train-images-idx3": arrays.train_x[..., 0],
        "train-labels-idx1": arrays.train_y.astype(np.uint8),
    }
    parts |= {"t10k-images-idx3": arrays.test_x[..., 0], "t10k-labels-idx1": arrays.test_y.astype(np.uint8)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, a in parts.items():
        data = encode_idx(a)
        if compressed:
            (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(data))
        else:
            (folder / f"{name}-ubyte").write_bytes(data)


def no_network(*args: object, **kwargs: object) -> None:
    raise OSError("no network in tests")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SECATEUR_DATA", str(folder))
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(subprocess, "run", no_network)
    return folder


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Arrays:
    """MNIST's source, expecting twelve tiny images."""
    arrays = small(4, 1)
    monkeypatch.setitem(DATASETS, "mnist", replace(DATASETS["mnist"], sha256=arrays.digests()))
    return arrays


@pytest.mark.parametrize("compressed", [True, False])
def test_a_local_folder_is_decoded_checked_and_cached(
    tmp_path: Path, tiny: Arrays, cache: Path, compressed: bool
) -> None:
    write_idx(tmp_path / "local" / "below", tiny, compressed)
    data = load_images("mnist", folder=tmp_path / "local")
    assert data.train_x.dtype == torch.uint8
    assert data.train_x.shape == (12, 1, 4, 4)
    assert torch.equal(data.train_x[:, 0], torch.from_numpy(tiny.train_x[..., 0]))
    assert torch.equal(data.test_y, torch.from_numpy(tiny.test_y))
    assert list(cache.iterdir()) == [cache / "mnist.npz"]
    again = load_images("mnist")  # the network is off: this is the cache
    assert torch.equal(again.train_x, data.train_x)
    again.train_x[0] = 0  # and it may be written to


def test_a_broken_cache_is_fetched_again(tmp_path: Path, tiny: Arrays, cache: Path) -> None:
    cache.mkdir()
    (cache / "mnist.npz").write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(DataError, match="no network"):
        load_images("mnist")


@pytest.mark.parametrize("part", ["train_x", "train_y", "test_x", "test_y"])
def test_wrong_content_is_refused_and_not_cached(
    tmp_path: Path, tiny: Arrays, cache: Path, part: str
) -> None:
    changed = getattr(tiny, part).copy()
    changed.flat[0] ^= 1
    write_idx(tmp_path / "local", replace(tiny, **{part: changed}))
    with pytest.raises(DataError, match="hash to"):
        load_images("mnist", folder=tmp_path / "local")
    assert not cache.exists()


def test_an_empty_folder_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train-images-idx3"):
        load_images("mnist", folder=tmp_path)


def test_no_source_names_every_failure_and_the_remedy() -> None:
    with pytest.raises(DataError, match=r"(?s)official source: .*npm.*load_images\('cifar10', folder="):
        load_images("cifar10")
    with pytest.raises(DataError, match="cifar-100-binary"):
        load_images("cifar100")


def test_unknown_name_suggests() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'cifar10'"):
        load_images("cifar-10")


def test_sources_are_tried_in_turn(tiny: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    class Fails:
        label = "first"

        def __call__(self, folder: Path) -> None:
            tried.append("first")
            raise DataError("down")

    class Works:
        label = "second"

        def __call__(self, folder: Path) -> None:
            tried.append("second")
            write_idx(folder, tiny)

    source = DATASETS["mnist"]
    forms = tuple(images.Form(fetch, source.forms[0].decode) for fetch in (Fails(), Works()))
    monkeypatch.setitem(DATASETS, "mnist", replace(source, forms=forms))
    assert load_images("mnist").train_x.shape == (12, 1, 4, 4)
    assert tried == ["first", "second"]


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=3, max_side=5)), st.integers(0, 200))
def test_idx_round_trip_and_truncation(a: np.ndarray, cut: int) -> None:
    data = encode_idx(a)
    assert np.array_equal(idx(data), a)
    if cut < len(data):
        with pytest.raises(DataError):
            idx(data[:cut])


def cifar_bytes(x: np.ndarray, *labels: np.ndarray) -> bytes:
    rows = [a.astype(np.uint8)[:, None] for a in labels] + [x.transpose(0, 3, 1, 2).reshape(len(x), -1)]
    return np.concatenate(rows, 1).tobytes()


def test_cifar_archive_reads_fine_labels_and_checks_its_hash(tmp_path: Path) -> None:
    arrays = small(32, 3)
    path = tmp_path / "cifar-100-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, x, y in (("train", arrays.train_x, arrays.train_y), ("test", arrays.test_x, arrays.test_y)):
            data = cifar_bytes(x, np.zeros(len(y)), y)
            info = tarfile.TarInfo(f"cifar-100-binary/{name}.bin")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with path.open("rb") as f:
        import hashlib

        md5 = hashlib.file_digest(f, "md5").hexdigest()
    decode = cifar_archive(path.name, md5, ("train.bin",), ("test.bin",), label_bytes=2)
    assert decode(tmp_path).digests() == arrays.digests()
    with pytest.raises(DataError, match="md5"):
        replace(decode, md5="0" * 32)(tmp_path)
    with pytest.raises(DataError, match=r"no other\.bin"):
        replace(decode, train=("other.bin",))(tmp_path)


def test_cifar_sheets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    test = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    for i in range(5):
        image.fromarray(train[2 * i : 2 * i + 2].reshape(2, 1024, 3)).save(
            tmp_path / f"data_batch_{i + 1}.png"
        )
    image.fromarray(test.reshape(2, 1024, 3)).save(tmp_path / "test_batch.png")
    (tmp_path / "train_lables.json").write_text(json.dumps(list(range(10))))
    (tmp_path / "test_lables.json").write_text("[3, 4]")
    expected = Arrays(train, np.arange(10), test, np.array([3, 4]))
    monkeypatch.setitem(DATASETS, "cifar10", replace(DATASETS["cifar10"], sha256=expected.digests()))
    limit = image.MAX_IMAGE_PIXELS
    data = load_images("cifar10", folder=tmp_path)
    assert torch.equal(data.train_x[7], torch.from_numpy(train[7]).permute(2, 0, 1))
    assert data.test_y.tolist() == [3, 4]
    assert limit == image.MAX_IMAGE_PIXELS


def test_fetchers_report_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no network"):
        Download(("https://example.org/a",))(tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: None)
    for fetcher in (NpmPackage("x@1"), DebianPackage("x")):
        with pytest.raises(DataError, match="is not installed"):
            fetcher(tmp_path)


def test_a_failing_client_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **kwargs: object) -> None:
        raise subprocess.CalledProcessError(1, command, stderr="long\nE: Unable to locate package")

    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(DataError, match="Unable to locate package"):
        DebianPackage("x")(tmp_path)


def test_download_writes_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(url.encode()))
    Download(("https://example.org/a.bin", "https://example.org/b.bin"))(tmp_path)
    assert (tmp_path / "b.bin").read_text() == "https://example.org/b.bin"
    assert (tmp_path / "a.bin").exists()


def test_calibration_draws_without_labels_and_never_from_the_held_out_images(
    tmp_path: Path, tiny: Arrays
) -> None:
    write_idx(tmp_path / "local", tiny)
    data = load_images("mnist", folder=tmp_path / "local")
    drawn = calibration(data, 8, seed=3, reserve=4)
    assert drawn.shape == (8, 1, 4, 4)
    assert drawn.dtype == torch.float32
    kept, labels = held_out(data, reserve=4)
    assert torch.equal(labels, data.train_y[-4:])
    gaps = (drawn[:, None] - kept[None]).abs().amax((2, 3, 4))
    assert gaps.min() > 0
    with pytest.raises(DataError, match="8 of the 12"):
        calibration(data, 9, reserve=4)
    with pytest.raises(DataError):
        held_out(data)


@given(st.integers(1, 40), st.integers(0, 2**31))
def test_a_smaller_draw_is_the_start_of_a_larger_one(n: int, seed: int) -> None:
    large = calibration_index(50, 40, seed, reserve=10)
    assert torch.equal(calibration_index(50, n, seed, reserve=10), large[:n])
    assert large.unique().numel() == 40
    assert large.max() < 40


def test_normalise_uses_the_training_statistics(tmp_path: Path, tiny: Arrays) -> None:
    write_idx(tmp_path / "local", tiny)
    data = load_images("mnist", folder=tmp_path / "local")
    white = data.normalise(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8))
    assert white.mean().item() == pytest.approx((1 - 0.1307) / 0.3081, rel=1e-5)

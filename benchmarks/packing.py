"""Packed files against others: python benchmarks/packing.py [--models ...] [--forms ...]

Every cell takes trained weights of the zoo (or one large layer of random ones), gives them a structure by projection,
and stores the same tensors with the same values in each format: bytes of the file, and MB of dense tensors a second
in and out of it. Speeds are of processor time on one thread, as all of this runs on one, and of the best of several
runs, as other work on the machine only makes some slower; files are in memory where the system has such a folder, and
those of safetensors are mapped, not read. What comes back is compared: exact formats must be equal bit by bit; for
quantised ones the relative error over all weights is written. Nothing is retrained, so these rows are about files, not
accuracy. Rows are appended to results/packing.csv; those that are there are skipped.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import zstandard
from safetensors.torch import load_file, save, save_file
from table import Table
from torch import Tensor

import secateur as sc
from secateur.blocks import Block, Partition, project
from secateur.zoo import lenet5, pretrained

Tensors = Mapping[str, Tensor]

KEYS = ("model", "form", "format")
TABLE = Table(
    Path("results/packing.csv"),
    KEYS,
    (*KEYS, "tensors", "dense_bytes", "bytes", "ratio", "encode_mb_s", "decode_mb_s", "relative_error", "commit",
     "torch", "cpu", "threads", "command"),
)  # fmt: skip
MODELS = ("resnet20-cifar10", "vgg16bn-quarter-cifar10", "lenet5", "linear-2048")
#       block, share of zero blocks, share of unified ones
FORMS = {
    "dense": None,
    "8x1-zeros70": (Block(8, 1), 0.7, 0.0),
    "8x1-zeros70-unified15": (Block(8, 1), 0.7, 0.15),
    "4x4-zeros70": (Block(4, 4), 0.7, 0.0),
    "unstructured90": (Block(1, 1), 0.9, 0.0),
}


def network(name: str) -> Tensors:
    """Return the tensors of a network."""
    torch.manual_seed(0)
    if name == "linear-2048":  # tails as trained weights have them
        return {"weight": torch.distributions.Laplace(0.0, 0.01).sample((2048, 2048))}
    model = lenet5() if name == "lenet5" else pretrained(name)
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def formed(tensors: Tensors, form: str) -> Tensors:
    """Give the weights a structure; those that are smaller than a block stay whole."""
    structure = FORMS[form]
    if structure is None:
        return tensors
    block, zero, unify = structure

    def changed(weight: Tensor) -> Tensor:
        if weight.ndim < 2 or len(weight) < block.rows or weight.shape[1] < block.columns:
            return weight
        return project(weight, Partition(block, tuple(weight.shape)), zero, unify)[0]

    return {name: changed(tensor) for name, tensor in tensors.items()}


def write_zip(tensors: Tensors, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("tensors", save(dict(tensors)))


def read_zip(path: Path) -> Tensors:
    from safetensors.torch import load

    with zipfile.ZipFile(path) as file:
        found: Tensors = load(file.read("tensors"))
    return found


def write_zstd(tensors: Tensors, path: Path) -> None:
    path.write_bytes(zstandard.ZstdCompressor(level=19).compress(save(dict(tensors))))


def read_zstd(path: Path) -> Tensors:
    from safetensors.torch import load

    found: Tensors = load(zstandard.ZstdDecompressor().decompress(path.read_bytes()))
    return found


def write_csr(tensors: Tensors, path: Path) -> None:
    """Write matrices as values with 32-bit indices, where that is smaller, and all else as it is."""
    parts: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        matrix = tensor.reshape(len(tensor), -1) if tensor.ndim > 1 else tensor
        if tensor.ndim < 2 or 8 * int(torch.count_nonzero(matrix)) + 4 * len(matrix) >= 4 * matrix.numel():
            parts[name] = tensor
            continue
        csr = matrix.to_sparse_csr()
        parts[f"{name}:rows"] = csr.crow_indices().int()
        parts[f"{name}:columns"] = csr.col_indices().int()
        parts[f"{name}:values"] = csr.values()
        parts[f"{name}:shape"] = torch.tensor(tensor.shape)
    save_file(parts, path)


def read_csr(path: Path) -> Tensors:
    parts = load_file(path)
    tensors: dict[str, Tensor] = {}
    for name in dict.fromkeys(key.partition(":")[0] for key in parts):
        if name in parts:
            tensors[name] = parts[name]
            continue
        shape = tuple(parts[f"{name}:shape"].tolist())
        rows, columns, values = (parts[f"{name}:{part}"] for part in ("rows", "columns", "values"))
        size = (shape[0], torch.Size(shape).numel() // shape[0])
        tensors[name] = torch.sparse_csr_tensor(rows, columns, values, size).to_dense().reshape(shape)
    return tensors


def packer(bits: int | None = None) -> Callable[[Tensors, Path], None]:
    def write(tensors: Tensors, path: Path) -> None:
        sc.pack(tensors, path, quantise=None if bits is None else sc.Quantise(bits))

    return write


FORMATS: Mapping[str, tuple[Callable[[Tensors, Path], None], Callable[[Path], Tensors]]] = {
    "safetensors": (lambda tensors, path: save_file(dict(tensors), path), load_file),
    "zip": (write_zip, read_zip),
    "zstd-19": (write_zstd, read_zstd),
    "csr": (write_csr, read_csr),
    "packed": (packer(), sc.unpack),
    "packed-8bit": (packer(8), sc.unpack),
    "packed-4bit": (packer(4), sc.unpack),
}


def seconds(run: Callable[[], object], least: float) -> float:
    """Return the least processor time of some runs, after one that is not counted; what takes long runs once."""
    start = time.process_time()
    run()
    first = time.process_time() - start
    if first > least:
        return first
    times: list[float] = []
    while sum(times) < least or len(times) < 3:
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def run_cell(model: str, form: str, name: str, tensors: Tensors, table: Table, least: float) -> None:
    if (model, form, name) in table.present():
        return
    write, read = FORMATS[name]
    memory = Path("/dev/shm")
    dense = sum(tensor.nbytes for tensor in tensors.values())
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        path = Path(folder) / "file"
        encode = seconds(lambda: write(tensors, path), least)
        size = path.stat().st_size
        decode = seconds(lambda: read(path), least)
        found = read(path)
    exact = all(torch.equal(found[key], tensor) for key, tensor in tensors.items())
    quantised = name.endswith("bit")
    if not exact and not quantised:
        raise SystemExit(f"{name} does not give back {model} in the form {form}")
    weights = [key for key, tensor in tensors.items() if tensor.is_floating_point()]
    lost = sum(float((found[key].double() - tensors[key].double()).square().sum()) for key in weights)
    norm = sum(float(tensors[key].double().square().sum()) for key in weights)
    table.append({
        "model": model, "form": form, "format": name, "tensors": len(tensors), "dense_bytes": dense, "bytes": size,
        "ratio": dense / size, "encode_mb_s": dense / encode / 1e6, "decode_mb_s": dense / decode / 1e6,
        "relative_error": (lost / norm) ** 0.5,
    } | table.provenance(f"python benchmarks/packing.py --models {model} --forms {form}"))  # fmt: skip
    print(
        f"{model:24} {form:22} {name:16} {size:10,} bytes, {dense / size:6.2f} x, "
        f"in {dense / encode / 1e6:5.0f} and out {dense / decode / 1e6:5.0f} MB/s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument("--seconds", type=float, default=0.3, help="timed at least so long, each way")
    parser.add_argument("--output", type=Path, default=TABLE.path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(options.output, TABLE.keys, TABLE.columns)
    for model in options.models:
        tensors = network(model)
        for form in options.forms:
            same = formed(tensors, form)
            for name in options.formats:
                run_cell(model, form, name, same, table, options.seconds)


if __name__ == "__main__":
    main()

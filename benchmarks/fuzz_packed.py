"""Corrupted packed files: python benchmarks/fuzz_packed.py [--files 100000] [--seed 0]

Takes small packed files of every kind of coding, damages them, and unpacks them. Some damage is blind: bytes changed,
cut, added, moved, spliced in from another file. Some is by somebody who knows the format: entries of the header or
the content of streams are changed, and all digests are made right again, so that the checks behind them are reached.
Allowed are an `ArtefactError`; the right tensors; and, where digests were made right, other tensors of the declared
shapes and types. Anything else is counted as an offence and shown: another exception, other shapes, a run of over ten
seconds, a process that dies. Files are read in child processes, so that a crash is seen and the peak of memory is
theirs; `limit` is what files may declare. A row goes to results/fuzz_packed.csv.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
import zstandard
from table import Table
from torch import Tensor

import secateur as sc
from secateur.artefact.packed.read import PREFIX
from secateur.artefact.packed.streams import DIGEST
from secateur.artefact.packed.write import sealed, write_packed
from secateur.ground.errors import ArtefactError

KEYS = ("files", "seed", "limit")
TABLE = Table(
    Path("results/fuzz_packed.csv"),
    KEYS,
    (*KEYS, "errors", "right", "other_valid", "offences", "error_kinds", "peak_bytes", "seconds", "commit", "torch",
     "command"),
)  # fmt: skip
LIMIT = 1 << 26  # bytes that files may declare
BATCH = 5000  # files of one child process
WORKERS = 2
SLOW = 10.0  # seconds
NUMBERS: tuple[Any, ...] = (
    -1,
    0,
    1,
    2,
    3,
    7,
    255,
    1 << 16,
    (1 << 31) - 1,
    1 << 42,
    1 << 64,
    1e308,
    -0.5,
    True,
    None,
    "",
    "x",
    [],
    {},
)


PLANES = {"sizes": [0, 0, 0, 0], "base": 7, "shift": 2}
PAIRS = {"sizes": [0], "pairs": True}
GRAFTS: tuple[tuple[str, Any], ...] = (
    ("blocks", {"rows": 2}),
    ("blocks", {"rows": 8, "columns": 3, "taps_first": True}),
    ("blocks", {"rows": 1 << 16, "columns": 1 << 16}),
    ("nonzero", 1),
    ("negative", 3),
    ("unified", 2),
    ("signs", 5),
    ("magnitudes", PLANES),
    ("values", PLANES),
    ("values", PAIRS),
    ("magnitudes", PAIRS),
    ("quantised", {"bits": 16, "relative_error": 0, "max_error": 0}),
    ("quantised", {"bits": 4, "relative_error": 0, "max_error": 0, "rows": 8, "scales": PLANES}),
    ("quantised", {"bits": 12, "relative_error": 0, "max_error": 0, "scales": PLANES}),
)


@dataclass(frozen=True)
class Seed:
    """A valid file and what it holds."""

    data: bytes
    tensors: dict[str, Tensor]


def seeds(folder: Path) -> list[Seed]:
    """Make files that have every layout, coder, quantisation and data type among them."""
    torch.manual_seed(0)
    mask = torch.rand(8, 24)
    values = torch.randn(64, 24) * 0.1
    zeros = values * (mask < 0.3).repeat_interleave(8, 0)
    unified = torch.where((mask > 0.6).repeat_interleave(8, 0), values.sign() * 0.25, zeros)
    negative = torch.where((mask < 0.5).repeat_interleave(8, 0), values, torch.tensor(-0.0))
    kernels = torch.randn(12, 5, 3, 3) * (torch.rand(12, 5, 1, 1) < 0.4)
    contents: Sequence[tuple[dict[str, Tensor], dict[str, Any]]] = [
        ({"dense": values, "bias": torch.randn(64), "steps": torch.tensor(7)}, {}),
        ({"zeros": zeros, "bias": torch.randn(9)}, {}),
        ({"unified": unified, "kernels": kernels}, {}),
        ({"negative": negative, "half": zeros.half(), "brain": unified.bfloat16()}, {}),
        ({"sparse": values * (torch.rand(64, 24) < 0.1), "mask": torch.rand(70, 33) < 0.2}, {}),
        ({"unified": unified, "dense": values}, {"quantise": sc.Quantise(4)}),
        ({"zeros": zeros, "dense": values}, {"quantise": sc.Quantise(8)}),
        ({"zeros": zeros}, {"quantise": sc.Quantise(16)}),
        ({"whole": torch.arange(2000) % 7, "complex": torch.randn(40, 30, dtype=torch.complex64)}, {}),
        (
            {
                "taps": torch.randn(16, 8, 3, 3)
                * (torch.rand(16, 2, 1, 3, 3) < 0.4).repeat(1, 1, 4, 1, 1).reshape(16, 8, 3, 3)
            },
            {},
        ),
        ({"empty": torch.zeros(0, 3), "one": torch.tensor(1.5), "double": zeros.double()}, {}),
        ({"tied": zeros, "again": zeros}, {"texts": {"plan.json": "{}" * 50, "note": ""}}),
    ]
    found = []
    for tensors, options in contents:
        write_packed(folder / "seed", tensors, **options)
        found.append(Seed((folder / "seed").read_bytes(), sc.unpack(folder / "seed")))
    return found


def blind(rng: random.Random, data: bytes, others: Sequence[Seed]) -> bytes:
    """Damage bytes without knowing what they are."""
    changed = bytearray(data)
    at = rng.randrange(len(data))
    # Half of the time where the prefix and the header are.
    if rng.random() < 0.5:
        at = rng.randrange(min(len(data), 400))
    length = min(rng.choice((1, 2, 4, 16, 100, 1000)), len(data) - at)
    other = rng.choice(others).data
    match rng.randrange(8):
        case 0:
            changed[at] ^= 1 << rng.randrange(8)
        case 1:
            changed[at : at + length] = rng.randbytes(length)
        case 2:
            del changed[at:]
        case 3:
            del changed[at : at + length]
        case 4:
            changed[at:at] = rng.randbytes(length)
        case 5:
            changed += rng.randbytes(length)
        case 6:
            start = rng.randrange(len(other))
            changed[at : at + length] = other[start : start + length]
        case _:
            changed = bytearray(data[:at] + other[rng.randrange(len(other)) :])
    return bytes(changed)


def informed(rng: random.Random, data: bytes, _others: Sequence[Seed]) -> bytes:
    """Change entries of the header, or streams, and make every digest right again."""
    end = PREFIX.size + PREFIX.unpack_from(data)[2]
    header = json.loads(zstandard.decompress(data[PREFIX.size : end]))
    body = bytearray(data[end:])
    what = rng.random()
    if what < 0.5:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            with suppress(LookupError, TypeError):  # an earlier change left nothing to change
                change_entry(rng, header)
    if what > 0.4 and body:
        for _ in range(rng.choice((1, 2, 5))):
            at = rng.randrange(len(body))
            if rng.random() < 0.3:
                body[at : at + 8] = rng.randbytes(len(body[at : at + 8]))
            else:
                body[at] = rng.choice((0, 255, body[at] ^ (1 << rng.randrange(8))))
    resign(header, body)
    return sealed(json.dumps(header).encode()) + bytes(body)


def random_place(rng: random.Random, content: Any) -> tuple[Any, Any] | None:
    """Return a container somewhere within JSON content and one of its keys, or nothing at an empty container."""
    place = content
    while keys := list(place) if isinstance(place, dict) else list(range(len(place))):
        key = rng.choice(keys)
        if not (isinstance(place[key], dict | list) and place[key] and rng.random() < 0.85):
            return place, key
        place = place[key]
    return None


def change_entry(rng: random.Random, header: Any) -> None:
    """Change, remove, copy or move one random entry somewhere within the header."""
    if (found := random_place(rng, header)) is None:
        return
    place, key = found
    old = place[key]
    match rng.randrange(7):
        case 0:
            del place[key]
        case 1 if isinstance(place, list):
            place.insert(rng.randrange(len(place) + 1), old)
        case 2 if isinstance(place, list):
            rng.shuffle(place)
        case 3 if isinstance(old, int):
            place[key] = old + rng.choice((-9, -1, 1, 1, 8))
        case 4 if isinstance(old, str):
            place[key] = rng.choice(("F32", "F64", "BOOL", "U8", "C64", "BF16", "TEXT", "F8_E5M2", "tied"))
        case 5:
            name, value = rng.choice(GRAFTS)
            rng.choice(header)[name] = value
        case _:
            place[key] = rng.choice(NUMBERS)


def resign(header: Any, body: bytearray) -> None:
    """Write the digests of what the records of the header now cover, as far as it still has records."""
    try:
        start = 0
        for record in header:
            end = start + stored(record)
            record["digest"] = hashlib.sha256(body[start:end]).hexdigest()[:DIGEST]
            start = end
    except (LookupError, TypeError, ValueError, AttributeError):
        pass  # then it is refused for that


def stored(record: Any) -> int:
    """Return the bytes of a record, from its JSON."""
    planes = (record["values"], record.get("magnitudes"), record.get("quantised", {}).get("scales"))
    bits = sum(record.get(name, 0) for name in ("nonzero", "negative", "unified", "signs"))
    return int(bits + sum(sum(p["sizes"]) for p in planes if p))


def outcome(path: Path, seed: Seed, data: bytes, trusted: bool) -> str:
    """Unpack a damaged file; return what came of it. Everything that is not allowed begins with an exclamation mark."""
    path.write_bytes(data)
    start = time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, SLOW)
    try:
        with sc.PackedFile(path, limit=LIMIT) as file:
            found = file.all()
            for name in file.texts:
                file.text(name)
            for name in file:
                file.nonzero(name)
            declared = {
                name: (shape, record.kind.dtype)
                for record in file.records
                for names, shape in record.tensors
                for name in names
                if name in file
            }
    except ArtefactError as error:
        return kind(str(error))
    except Exception:
        return "! " + traceback.format_exc(limit=-3)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if time.perf_counter() - start > SLOW:
        return "! slow"
    for name, of in declared.items():
        if (tuple(found[name].shape), found[name].dtype) != of:
            return f"! {name} is not what the header declares"
    same = found.keys() == seed.tensors.keys() and all(
        found[n].dtype == t.dtype and found[n].shape == t.shape and torch.equal(raw(found[n]), raw(t))
        for n, t in seed.tensors.items()
    )
    if same:
        return "right"
    return "! damage went unseen" if trusted else "other"


def raw(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def kind(message: str) -> str:
    """Return the class of an error by the words of its message."""
    for words, name in (
        ("not a packed one", "foreign"), ("truncated", "truncated"), ("too long", "too long"),
        ("header was changed", "header digest"), ("changed or damaged", "record digest"), ("version", "version"),
        ("more than the limit", "limit"), ("zstandard frame", "zstandard"), ("stream", "streams"),
    ):  # fmt: skip
        if words in message:
            return f"error: {name}"
    return "error: header entry"


def alarm(_: int, __: object) -> NoReturn:
    raise TimeoutError("it takes too long")


def batch(seed: int, count: int) -> tuple[Counter[str], int]:
    """Damage and read so many files in this process; return the outcomes and its peak of memory above the start."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, alarm)
    memory = Path("/dev/shm")
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        start = seeds(Path(folder))
        rng = random.Random(seed)
        before = resident()
        for _ in range(count):
            chosen, way = rng.choice(start), rng.choice((blind, informed))
            changed = way(rng, chosen.data, start)
            trusted = way is blind and changed != chosen.data and changed not in {s.data for s in start}
            outcomes[outcome(Path(folder) / "file", chosen, changed, trusted)] += 1
    return outcomes, resident() - before


def resident() -> int:
    """Return the peak of this process's memory, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def batches(files: int, seed: int) -> Iterator[tuple[Counter[str], int]]:
    """Run all files in child processes, a fresh one for each batch; a child that dies is an offence."""

    def run(start: int) -> tuple[Counter[str], int]:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as child:
            try:
                return child.submit(batch, seed + start, min(BATCH, files - start)).result()
            except BrokenProcessPool:
                return Counter({f"! a process died in the batch of seed {seed + start}": 1}), 0

    with ThreadPoolExecutor(WORKERS) as threads:
        yield from threads.map(run, range(0, files, BATCH))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=TABLE.path)
    options = parser.parse_args()
    table = Table(options.output, TABLE.keys, TABLE.columns)
    keys = {"files": str(options.files), "seed": str(options.seed), "limit": str(LIMIT)}
    if tuple(keys.values()) in table.present():
        return
    outcomes: Counter[str] = Counter()
    peak, start, done = 0, time.perf_counter(), 0
    for found, memory in batches(options.files, options.seed):
        outcomes += found
        peak, done = max(peak, memory), done + sum(found.values())
        print(f"\r{done} of {options.files} files", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    offences = {name: count for name, count in outcomes.items() if name.startswith("!")}
    errors = {name[7:]: count for name, count in outcomes.items() if name.startswith("error")}
    for name, count in sorted(offences.items()):
        print(f"{count} times: {name}")
    table.append(keys | {
        "errors": sum(errors.values()), "right": outcomes["right"], "other_valid": outcomes["other"],
        "offences": sum(offences.values()),
        "error_kinds": "; ".join(f"{name} {count}" for name, count in sorted(errors.items())),
        "peak_bytes": peak, "seconds": time.perf_counter() - start,
    } | table.provenance(
        f"python benchmarks/fuzz_packed.py --files {options.files} --seed {options.seed}"
    ))  # fmt: skip
    print(f"{sum(errors.values())} errors, {outcomes['right']} right, {outcomes['other']} other valid files, "
          f"{sum(offences.values())} offences; peak {peak / 1e6:.0f} MB")  # fmt: skip
    if offences:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

"""Mutated artefacts and checkpoints: python benchmarks/fuzz_artefacts.py [--folders 10000] [--checkpoints 1000]

Small artefacts and a checkpoint are damaged and loaded. Some damage is blind: bytes of a file changed, cut or added; it
must be seen. Some is by somebody who knows the format: entries of the JSON or tensors are changed, and all hashes are
made anew. Allowed are an `ArtefactError` or a `CheckpointError`; what was saved; and, where hashes were made anew,
another valid model. Anything else is an offence and shown: another exception, damage unseen, over ten seconds. A row
goes to results/fuzz_artefacts.csv.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
import torch
from fuzz_packed import random_place
from table import Table
from torch import Tensor, nn

import secateur as sc
from secateur.artefact.manifest import CARD, FILES, MANIFEST, MODEL, PAGE, PLAN, Entry, entries_to_json
from secateur.ground.errors import ArtefactError, CheckpointError
from secateur.ground.tensors import tensors_of
from secateur.training import checkpoint

KEYS = ("folders", "checkpoints", "seed")
TABLE = Table(
    Path("results/fuzz_artefacts.csv"),
    KEYS,
    (
        *KEYS,
        "errors",
        "right",
        "other_valid",
        "offences",
        "peak_bytes",
        "seconds",
        "commit",
        "torch",
        "command",
    ),
)
SLOW = 10.0  # seconds
VALUES: tuple[Any, ...] = (
    -1,
    0,
    1,
    2,
    7,
    1 << 31,
    1 << 64,
    1e308,
    -0.5,
    True,
    None,
    "",
    "0.weight",
    [],
    {},
    [0],
    [[0]],
)


class Mlp(nn.Sequential):
    """Linear layers."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4))


class Conv(nn.Module):
    """Convolutions, norms and a size that the forward repeats."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12)
        self.b, self.head = nn.Conv2d(12, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(self.norm(self.a(x)).relu()).relu().mean((2, 3)).view(-1, 8)
        return self.head(y)  # type: ignore[no-any-return]


def artefacts(folder: Path) -> list[tuple[Path, type[nn.Module], dict[str, Tensor]]]:
    torch.manual_seed(0)
    found: list[tuple[Path, type[nn.Module], dict[str, Tensor]]] = []
    for kind, x in ((Mlp, torch.randn(64, 12)), (Conv, torch.randn(64, 3, 8, 8))):
        model: nn.Module = kind().eval()
        for times in ("once", "twice"):  # pruned again, the plan is a chain of two
            result = sc.prune(
                model, x[:4], method=sc.SNP(), budget=sc.Budget(macs=0.7), calibration=[x], progress=False
            )
            model, saved = result.model, folder / f"{kind.__name__}-{times}"
            result.save(saved)
            found.append((saved, kind, dict(tensors_of(model))))
    return found


def blind(rng: random.Random, folder: Path) -> None:
    path = rng.choice(sorted(folder.iterdir()))
    path.write_bytes(damaged(rng, path.read_bytes()))


def damaged(rng: random.Random, data: bytes) -> bytes:
    changed, at = bytearray(data), rng.randrange(len(data))
    length = rng.choice((1, 2, 8, 100))
    match rng.randrange(5):
        case 0 | 1:
            changed[at] ^= 1 << rng.randrange(8)
        case 2:
            changed[at : at + length] = rng.randbytes(length)
        case 3:
            del changed[at : at + length]
        case _:
            changed[at:at] = rng.randbytes(length)
    return bytes(changed)


def informed(rng: random.Random, folder: Path) -> None:
    for _ in range(rng.choice((1, 1, 2, 3))):
        match rng.randrange(6):
            case 0:
                with contextlib.suppress(safetensors.SafetensorError):  # an earlier change damaged it
                    tensors = safetensors.torch.load_file(folder / MODEL)
                    change_tensors(rng, tensors)
                    safetensors.torch.save_file(tensors, folder / MODEL)
            case 1:
                path = folder / rng.choice(FILES)
                path.write_bytes(damaged(rng, path.read_bytes()))
            case _:
                path = folder / rng.choice((PLAN, PLAN, PLAN, "report.json"))
                with contextlib.suppress(ValueError):
                    content = json.loads(path.read_text())
                    change_entry(rng, content)
                    path.write_text(json.dumps(content))
    resign(folder)


def change_tensors(rng: random.Random, tensors: dict[str, Tensor]) -> None:
    name = rng.choice(sorted(tensors))
    old = tensors[name]
    match rng.randrange(4):
        case 0:
            del tensors[name]
        case 1:
            tensors[name + "x"] = old.clone()
        case 2:
            tensors[name] = torch.zeros([rng.choice((0, 1, 3, 99)) for _ in range(rng.randrange(4))])
        case _:
            tensors[name] = old.to(rng.choice((torch.int8, torch.bool, torch.float64, torch.bfloat16)))


def change_entry(rng: random.Random, content: Any) -> None:
    if (found := random_place(rng, content)) is None:
        return
    place, key = found
    if rng.random() < 0.2:
        del place[key]
    elif isinstance(place[key], int) and rng.random() < 0.5:
        place[key] += rng.choice((-8, -1, 1, 8))
    else:
        place[key] = rng.choice(VALUES)


def resign(folder: Path) -> None:
    """Make every hash right again."""
    with contextlib.suppress(ValueError, TypeError):
        plan, data = json.loads((folder / PLAN).read_text()), (folder / MODEL).read_bytes()
        plan |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (folder / PLAN).write_text(json.dumps(plan))
    entries = {}
    for path in sorted(folder.iterdir()):
        if path.name in (*FILES, PAGE, CARD):
            data = path.read_bytes()
            entries[path.name] = Entry(len(data), hashlib.sha256(data).hexdigest())
    (folder / MANIFEST).write_text(json.dumps(entries_to_json(entries)))


def outcome(use: Callable[[], dict[str, Tensor]], wanted: dict[str, Tensor], seen: bool) -> str:
    """Load something damaged; return what came of it. What is not allowed begins with an exclamation mark."""
    start = time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, SLOW)
    try:
        found = use()
    except (ArtefactError, CheckpointError) as error:
        return "error" if str(error).isprintable() else f"! a message that is not printable: {error!r}"
    except Exception:
        return "! " + traceback.format_exc(limit=-3)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if time.perf_counter() - start > SLOW:
        return "! slow"
    if found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted):
        return "right"
    return "! damage went unseen" if seen else "other"


def alarm(_: int, __: object) -> NoReturn:
    raise TimeoutError("it takes too long")


def folders(count: int, rng: random.Random, work: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    start = artefacts(work)
    for _ in range(count):
        source, kind, wanted = rng.choice(start)
        shutil.rmtree(work / "changed", ignore_errors=True)
        shutil.copytree(source, work / "changed")
        way = rng.choice((blind, informed))
        way(rng, work / "changed")

        def use(kind: type[nn.Module] = kind) -> dict[str, Tensor]:
            return dict(tensors_of(sc.load(work / "changed", kind)))

        found[outcome(use, wanted, way is blind)] += 1
    return found


def checkpoints(count: int, rng: random.Random, work: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    torch.manual_seed(1)
    net = Mlp()
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(8, 12)).square().sum().backward()
    optimizer.step()
    tensors, numbers = checkpoint.optimizer_state(optimizer)
    families = {"model": checkpoint.weights(net), "optimizer": tensors}
    checkpoint.write(checkpoint.kept_in(work), families, {"optimizer": numbers, "recipe": {}})
    content, path = checkpoint.kept_in(work).read_bytes(), checkpoint.kept_in(work)
    wanted, _ = checkpoint.read(path)

    def use() -> dict[str, Tensor]:
        tensors, data = checkpoint.resumed(work, True, {})
        fresh = Mlp()
        with checkpoint.fitting(work):
            checkpoint.load_weights(fresh, checkpoint.under(tensors, "model"))
            own = torch.optim.Adam(fresh.parameters())
            checkpoint.load_optimizer(own, checkpoint.under(tensors, "optimizer"), data["optimizer"])
        return tensors

    for _ in range(count):
        path.write_bytes(content)
        seen = rng.random() < 0.5
        if seen:
            path.write_bytes(damaged(rng, content))
        else:
            changed, data = checkpoint.read(path)
            change_tensors(rng, changed) if rng.random() < 0.5 else change_entry(rng, data)
            split: dict[str, dict[str, Tensor]] = {}
            for name, tensor in changed.items():
                family, _, rest = name.partition("/")
                split.setdefault(family, {})[rest] = tensor
            checkpoint.write(path, split, data)
        found[outcome(use, wanted, seen)] += 1
    return found


def resident() -> int:
    """Return the peak of this process's memory, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folders", type=int, default=10_000)
    parser.add_argument("--checkpoints", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=TABLE.path)
    options = parser.parse_args()
    table = Table(options.output, TABLE.keys, TABLE.columns)
    keys = {key: str(getattr(options, key)) for key in KEYS}
    if tuple(keys.values()) in table.present():
        return
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, alarm)
    start, rng = time.perf_counter(), random.Random(options.seed)
    memory = Path("/dev/shm")
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as work:
        outcomes += folders(1, rng, Path(work))  # what is imported on the way is not counted
        before = resident()
        for part, count in ((folders, options.folders - 1), (checkpoints, options.checkpoints)):
            outcomes += part(count, rng, Path(work))
        peak = resident() - before
    offences = {name: count for name, count in outcomes.items() if name.startswith("!")}
    for name, count in sorted(offences.items()):
        print(f"{count} times: {name}")
    command = "python benchmarks/fuzz_artefacts.py " + " ".join(f"--{key} {keys[key]}" for key in KEYS)
    table.append(keys | {
        "errors": outcomes["error"], "right": outcomes["right"], "other_valid": outcomes["other"],
        "offences": sum(offences.values()), "peak_bytes": peak, "seconds": time.perf_counter() - start,
    } | table.provenance(command))  # fmt: skip
    print(f"{outcomes['error']} errors, {outcomes['right']} right, {outcomes['other']} other valid, "
          f"{sum(offences.values())} offences; peak {peak / 1e6:.0f} MB")  # fmt: skip
    if offences:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

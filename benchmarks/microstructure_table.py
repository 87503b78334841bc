"""The table of benchmarks/microstructure.py and benchmarks/microstructure_training.py: one row a network."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from table import Table
from torch import nn

from secateur.artefact import pack
from secateur.blocks import BlockPattern
from secateur.blocks.counted import counted
from secateur.data import ImageData
from secateur.graph import Graph
from secateur.measure import batches, stored_bytes, top1

KEYS = ("model", "method", "block", "zero_ratio", "unified_ratio", "training", "seed")
TABLE = Table(
    Path("results/microstructure.csv"),
    KEYS,
    ("model", "dataset", "method", "block", "zero_ratio", "unified_ratio", "training", "seed", "acc_dense",
     "acc_final", "stored_bits_ratio", "operations_ratio", "packed_bytes", "safetensors_bytes", "as_magnitude",
     "same", "primal", "dual", "seconds", "commit", "command"),
)  # fmt: skip


def keys(
    model: str, method: str, block: object, zero: float, unify: float, training: str, seed: int
) -> dict[str, str]:
    values = (model, method, block, f"{zero:g}", f"{unify:g}", training, seed)
    return dict(zip(KEYS, map(str, values)))


def is_there(cell: Mapping[str, str]) -> bool:
    return tuple(cell[k] for k in KEYS) in TABLE.present()


def accuracy(model: nn.Module, data: ImageData) -> float:
    quick = copy.deepcopy(model).to(memory_format=torch.channels_last).eval()
    return top1(quick, batches(data.normalise(data.test_x), data.test_y, 100))


def append(
    cell: Mapping[str, str],
    data: ImageData,
    graph: Graph,
    model: nn.Module,
    patterns: Mapping[str, BlockPattern],
    dense: float,
    final: float,
    seconds: float,
    command: str,
    packed: int | None = None,
    approach: Mapping[str, float] | None = None,
) -> None:
    """Write the row of a network that obeys its patterns; `packed` are the bytes of its file, if it was made.

    `approach` has the columns that say how ADMM came to its blocks.
    """
    state = dict(model.named_parameters())
    broken = [name for name, pattern in patterns.items() if not pattern.obeyed(state[name].detach())]
    if broken:
        raise ValueError(f"{broken[0]} does not obey its pattern")
    found = counted(graph, state, patterns)
    if packed is None:
        with tempfile.TemporaryDirectory() as folder:
            packed = pack(model, Path(folder) / "model.sec").bytes
    TABLE.append(dict(cell) | {
        "dataset": data.name, "acc_dense": dense, "acc_final": final, "stored_bits_ratio": found.stored_bits,
        "operations_ratio": found.operations, "packed_bytes": packed,
        "safetensors_bytes": stored_bytes(model), "seconds": seconds,
    } | dict(approach or {}) | TABLE.provenance(command))  # fmt: skip
    print(
        ", ".join(cell.values()),
        f"dense {dense:.4f}, final {final:.4f}, bits {found.stored_bits:.4f}",
        flush=True,
    )

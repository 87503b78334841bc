"""Every generator of random numbers that training draws from: seeded by the position, read and set for a resume."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["generators", "kept_apart", "restore", "seed", "snapshot"]


def seed(*position: int, loader: Any = None) -> None:
    """Seed all generators, the loader's own included, by a position in the run such as (seed, round, epoch).

    What is drawn in an epoch then does not depend on what came before it.
    """
    value = int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0])
    torch.manual_seed(value)
    np.random.seed(value % 2**32)
    random.seed(value)
    for own in generators(loader):
        own.manual_seed(value)


def generators(loader: Any) -> list[torch.Generator]:
    """Return the generators that a DataLoader, its sampler and its data set hold themselves."""
    batches = getattr(loader, "batch_sampler", None)
    holders = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    found = [getattr(holder, "generator", None) for holder in (*holders, getattr(loader, "dataset", None))]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def snapshot(loader: Any = None) -> dict[str, Tensor]:
    """Return the states of all generators as tensors."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    assert kind == "MT19937"  # numpy's global generator has no other kind
    version, words, gauss = random.getstate()
    assert version == 3
    states = {
        "torch": torch.get_rng_state(),
        "numpy.keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "numpy.rest": torch.tensor([position, has_gauss, cached], dtype=torch.float64),
        "python.words": torch.tensor(words, dtype=torch.int64),
        "python.gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states | {f"loader.{i}": g.get_state() for i, g in enumerate(generators(loader))}


def restore(states: dict[str, Tensor], loader: Any = None) -> None:
    """Set all generators to what `snapshot` returned."""
    torch.set_rng_state(states["torch"])
    position, has_gauss, cached = states["numpy.rest"].tolist()
    keys = states["numpy.keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), cached))
    gauss = states["python.gauss"].tolist()
    random.setstate((3, tuple(states["python.words"].tolist()), gauss[0] if gauss else None))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    for i, own in enumerate(generators(loader)):
        own.set_state(states[f"loader.{i}"])


@contextmanager
def kept_apart(loader: Any = None) -> Iterator[None]:
    """Give the caller's generators back as they were: a run seeds them for itself."""
    before = snapshot(loader)
    try:
        yield
    finally:
        restore(before, loader)

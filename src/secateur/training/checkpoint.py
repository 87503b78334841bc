"""Checkpoints: one safetensors file, replaced as a whole, with plain JSON in its header. Nothing is pickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from secateur.ground.errors import CheckpointError
from secateur.ground.tensors import tensor_names, tensors_of

__all__ = ["load_optimizer", "load_weights", "optimizer_state", "read", "under", "weights", "write"]

VERSION = 1
_KEY = "secateur-checkpoint"


def write(path: Path, tensors: Mapping[str, Mapping[str, Tensor]], data: Mapping[str, Any]) -> None:
    """Write families of named tensors and JSON data; a reader finds the old file or the new one, never half of one.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    flat = {f"{family}/{name}": _plain(t) for family, named in tensors.items() for name, t in named.items()}
    text = json.dumps({"version": VERSION, **data}, allow_nan=False)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(save(flat, {_KEY: text}))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        if os.name != "nt":  # Windows cannot open folders
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise CheckpointError(f"The checkpoint {path} cannot be written: {error}.") from error


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors, named ``family/name``, and the JSON data of a checkpoint.

    Raises:
        CheckpointError: the file cannot be read, or is no checkpoint of this version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            data = json.loads((file.metadata() or {}).get(_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}.") from error
    if not isinstance(data, dict) or data.pop("version", None) != VERSION:
        raise CheckpointError(f"{path} is not a checkpoint of version {VERSION}: give an empty folder.")
    return tensors, data


def under(tensors: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """Return the tensors of one family by their own names.

    >>> list(under({"model/a.weight": torch.ones(1), "masks/a.weight": torch.ones(1)}, "masks"))
    ['a.weight']
    """
    start = family + "/"
    return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every parameter and buffer on the CPU, tied ones once, buffers that are not saved included."""
    known = tensors_of(model)
    return {names[0]: known[names[0]].detach().to("cpu", copy=True) for names in tensor_names(model)}


@torch.no_grad()
def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into a model's own: its parameters stay the objects that optimisers and wrappers hold."""
    known = tensors_of(model)
    for name, tensor in tensors.items():
        known[name].copy_(tensor)


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return an optimiser's tensors, named ``parameter/key``, and its numbers as JSON data.

    Raises:
        CheckpointError: it holds something else.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{key}"] = value
            elif value is None or isinstance(value, int | float):
                numbers.setdefault(str(index), {})[key] = value
            else:
                raise CheckpointError(
                    f"{type(optimizer).__name__} keeps a {type(value).__name__} under {key!r}, which cannot be "
                    "saved without pickle: use an optimiser whose state is tensors and numbers."
                )
    # A few optimisers (Prodigy, schedule-free ones) count in their groups.
    groups = [
        {key: value for key, value in group.items() if isinstance(value, int | float)}
        for group in optimizer.param_groups
    ]
    return tensors, {"state": numbers, "groups": groups}


def load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
) -> None:
    """Set a fresh optimiser of the same parameters to what `optimizer_state` returned."""
    state: dict[int, dict[str, Any]] = {int(index): dict(v) for index, v in numbers["state"].items()}
    for name, tensor in tensors.items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    for group, saved in zip(optimizer.param_groups, numbers["groups"], strict=True):
        group.update(saved)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)

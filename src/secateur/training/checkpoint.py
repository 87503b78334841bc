"""Checkpoints: one safetensors file, replaced as a whole, with plain JSON and a checksum in its header; no pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from secateur.ground.describe import differences
from secateur.ground.errors import CheckpointError
from secateur.ground.files import write_whole
from secateur.ground.tensors import tensor_names, tensors_of

__all__ = [
    "fitting",
    "kept_in",
    "load_optimizer",
    "load_weights",
    "optimizer_state",
    "read",
    "resumed",
    "under",
    "weights",
    "write",
]

VERSION = 1
_KEY, _SUM = "secateur-checkpoint", "secateur-sha256"
NO_SUM = "0" * 64  # stands in the place of the checksum while that is computed


def kept_in(folder: Path) -> Path:
    """Return the path of the checkpoint in the folder of a run."""
    return folder / "checkpoint.safetensors"


def write(path: Path, tensors: Mapping[str, Mapping[str, Tensor]], data: Mapping[str, Any]) -> None:
    """Write families of named tensors and JSON data; a reader finds the old file or the new one, never half of one.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    flat = {f"{family}/{name}": _plain(t) for family, named in tensors.items() for name, t in named.items()}
    text = json.dumps({"version": VERSION, **data}, allow_nan=False)
    content = save(flat, {_KEY: text, _SUM: NO_SUM})
    beginning, rest = _parts(content)
    whole = beginning.replace(_entry(NO_SUM), _entry(_checksum(beginning, rest)), 1)
    write_whole(path, (whole, rest), CheckpointError)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors, named ``family/name``, and the JSON data of a checkpoint.

    Raises:
        CheckpointError: the file cannot be read, was changed, or is no checkpoint of this version.
    """
    try:
        content = path.read_bytes()
        beginning, rest = _parts(content)
        metadata = json.loads(beginning[8:])["__metadata__"]
        data, found = json.loads(metadata[_KEY]), metadata[_SUM]
        # The checksum stands within what it is of.
        wanted = _checksum(beginning.replace(_entry(found), _entry(NO_SUM), 1), rest)
        tensors = load(content)
    except (
        OSError,
        SafetensorError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}: {error}): give an empty folder."
        ) from error
    if found != wanted:
        raise CheckpointError(
            f"{path} was changed or damaged: its content does not have the checksum that it had. Give an empty folder."
        )
    if not isinstance(data, dict) or data.pop("version", None) != VERSION:
        raise CheckpointError(f"{path} is not a checkpoint of version {VERSION}: give an empty folder.")
    return tensors, data


def resumed(
    folder: Path, resume: bool, recipe: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what `read` does of the checkpoint in a folder, if it is of the same run and may be gone on from.

    Raises:
        CheckpointError: it may not, or is of another run.
    """
    if not resume:
        raise CheckpointError(
            f"{folder} holds the checkpoint of a run: go on with resume=True (--resume), or choose another."
        )
    tensors, data = read(kept_in(folder))
    if changed := list(differences(data.get("recipe"), recipe)):
        raise CheckpointError(
            f"{folder} holds a run with another recipe: {'; '.join(changed)}. Resume with the old one, or "
            "choose another folder."
        )
    return tensors, data


@contextmanager
def fitting(folder: Path | None) -> Iterator[None]:
    """Say of what goes wrong within that the checkpoint in a folder does not hold what it should.

    Raises:
        CheckpointError: with the first error's words.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise CheckpointError(
            f"The checkpoint in {folder} does not hold what this run needs ({type(error).__name__}: "
            f"{str(error)[:300]}): give an empty folder."
        ) from error


def _parts(content: bytes) -> tuple[bytes, memoryview]:
    """Return the header of a safetensors file with the length in front of it, and the tensors' bytes."""
    end = 8 + int.from_bytes(content[:8], "little")
    return content[:end], memoryview(content)[end:]


def _entry(checksum: str) -> bytes:
    return f'"{_SUM}":"{checksum}"'.encode()


def _checksum(beginning: bytes, rest: memoryview) -> str:
    digest = hashlib.sha256(beginning)
    digest.update(rest)
    return digest.hexdigest()


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
    """Copy what `weights` returned into a model: its parameters stay the objects that optimisers and wrappers hold.

    Raises:
        CheckpointError: these are not the model's tensors.
    """
    known = tensors_of(model)
    if odd := {names[0] for names in tensor_names(model)} ^ tensors.keys():
        raise CheckpointError(
            f"{min(odd)!r} is not both in the model and in the checkpoint: give an empty folder."
        )
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

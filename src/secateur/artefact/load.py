"""Load an artefact onto a fresh model of the class that it was made from."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from secateur.ground.copies import copied
from secateur.ground.errors import ArtefactError, SurgeryError, UsageError, did_you_mean, printable
from secateur.ground.tensors import tensor_names, tensors_of
from secateur.measure import Size
from secateur.surgery.apply import apply_in_place
from secateur.surgery.chain import with_constants
from secateur.surgery.lineage import Lineage, remember
from secateur.surgery.plan import Plan
from secateur.surgery.plan_json import plan_from_json

from .files import parse_json, parse_yaml, read_text, regular_file, steady, verified
from .manifest import MANIFEST, MODEL, PLAN, RECIPE, REPORT, Artefact, Manifest
from .packed import PackedFile
from .packed.read import ALLOWANCE, EXPANSION

__all__ = ["document", "load", "onto", "read", "read_tensors", "read_whole"]


def load(
    path: str | PathLike[str],
    fresh: nn.Module | Callable[[], nn.Module] | None = None,
    device: str | torch.device | None = None,
) -> nn.Module:
    """Return the saved model: a fresh dense one, cut to size, with the saved tensors.

    ``path`` is the folder of an artefact, or the file that `secateur.pack` made of one.
    ``fresh`` is a model of the class that was pruned, or a callable that makes one; a model that is given
    stays as it is. Tensors come in the data type in which they were saved, on `device`, by default on the fresh model's
    (of one on the meta device on the CPU): an artefact is of no device. The training flag is the saved one. Nothing is
    unpickled or executed.

    Raises:
        ArtefactError: a file is missing, truncated, changed, hostile or of a newer version, or the artefact
            was made for another model. The message names the file or the tensor.
        UsageError: no model is given; the message says of which class it has to be.
    """
    if fresh is None:
        raise UsageError(_class_of(read(path), path))
    model = onto(read(path), fresh, path)
    return model if device is None else model.to(device)


def _class_of(artefact: Artefact, path: str | PathLike[str]) -> str:
    """Say which class is missing, and what makes it as far as the recipe knows."""
    said = artefact.recipe.get("model")
    name = said.get("name") if isinstance(said, dict) else said
    hint = f" Its recipe says that {name!r} makes it." if isinstance(name, str) else ""
    return (
        f"{path} holds the tensors of a pruned {artefact.plan.steps[0].made_for.model} and no code. Give a fresh model "
        f"of that class, or what makes one: secateur.load({str(path)!r}, build).{hint}"
    )


def onto(
    artefact: Artefact, fresh: nn.Module | Callable[[], nn.Module], path: str | PathLike[str]
) -> nn.Module:
    """Return the model of an artefact that was read from `path`, as `load` does."""
    model = copied(fresh) if isinstance(fresh, nn.Module) else fresh()
    if not isinstance(model, nn.Module):
        raise ArtefactError(f"the callable made a {type(model).__name__}; it must make an nn.Module")
    try:
        apply_in_place(model, artefact.plan)
    except Exception as error:  # a hostile plan may ask of a model's own code what it has no answer to
        raise ArtefactError(f"the artefact {path} does not fit a {type(model).__name__}: {error}") from error
    _fill(model, artefact)
    _remember(model, artefact)
    return model.train(artefact.manifest.training)


def _remember(model: nn.Module, artefact: Artefact) -> None:
    """Let a model know how it came about, as its report says."""
    said, before = artefact.report, artefact.report.get("original") or artefact.report.get("before")
    if isinstance(before, dict) and all(type(before.get(f.name)) is int for f in fields(Size)):
        original = Size(**{f.name: before[f.name] for f in fields(Size)})
        method, budget = (printable(str(said.get(key, "")))[:1000] for key in ("method", "budget"))
        remember(model, Lineage(artefact.plan, method, budget, original, artefact.recipe))


def read(path: str | PathLike[str]) -> Artefact:
    """Read and check all of an artefact, folder or packed file, without a model.

    Raises:
        ArtefactError: as `load`.
    """
    path = Path(path)
    return _read_packed(path) if os.path.isfile(path) else steady(path, _read_folder)


def read_whole(path: Path) -> tuple[Artefact, dict[str, str]]:
    """Read a folder with its texts as they are, in one step: another process may replace it at any time.

    Raises:
        ArtefactError: as `load`.
    """
    texts = (PLAN, RECIPE, REPORT)
    return steady(
        path, lambda folder: (_read_folder(folder), {name: read_text(folder, name) for name in texts})
    )


def _read_folder(folder: Path) -> Artefact:
    entries = verified(folder)
    manifest, plan = Manifest.from_json(parse_json(read_text(folder, PLAN), PLAN))
    if (manifest.size, manifest.sha256) != (entries[MODEL].size, entries[MODEL].sha256):
        raise ArtefactError(f"{folder / MANIFEST} and {PLAN} do not agree about {MODEL}")
    tensors = _tensors(folder, manifest)
    return _artefact(manifest, plan, tensors, read_text(folder, RECIPE), read_text(folder, REPORT))


def document(path: str | PathLike[str], name: str) -> str:
    """Return a text of an artefact, folder or packed file, such as report.json; tensors are not read.

    Raises:
        ArtefactError: there is none, or it cannot be read.
    """
    path = Path(path)
    if not os.path.isfile(path):
        return steady(path, lambda folder: read_text(folder, name))
    with PackedFile(path, limit=sys.maxsize) as file:
        return file.text(name)


def _read_packed(path: Path) -> Artefact:
    with PackedFile(path) as file:
        if PLAN not in file.texts:
            raise ArtefactError(
                f"{path} holds tensors and no plan: model.load_state_dict(secateur.unpack(path)) fills a model of "
                "their shapes"
            )
        # The manifest's size and hash are those of model.safetensors; records have digests of their own.
        manifest, plan = Manifest.from_json(parse_json(file.text(PLAN), PLAN))
        return _artefact(manifest, plan, file.all(), file.text(RECIPE), file.text(REPORT))


def _artefact(
    manifest: Manifest, plan_json: object, tensors: dict[str, Tensor], recipe: str, report: str
) -> Artefact:
    plan = plan_from_json(plan_json, {})
    _check_patterns(plan, tensors, manifest)
    try:
        plan = with_constants(plan, tensors)  # which `apply` needs; the rest is filled in afterwards
    except SurgeryError as error:
        raise ArtefactError(f"{MODEL}: {error}") from None
    return Artefact(
        plan,
        manifest,
        tensors,
        _mapping(parse_yaml(recipe, RECIPE), RECIPE),
        _mapping(parse_json(report, REPORT), REPORT),
    )


def _tensors(folder: Path, manifest: Manifest) -> dict[str, Tensor]:
    path = regular_file(folder, MODEL)
    size = path.stat().st_size
    if size != manifest.size:
        what = "truncated" if size < manifest.size else "too long"
        raise ArtefactError(f"{path} is {what}: it has {size} bytes, {PLAN} says {manifest.size}")
    return read_tensors(path, manifest.sha256)


def read_tensors(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Read a safetensors file, whose content must have a hash, if one is given.

    A short file may claim any length (its system fills it with zeros): what its header declares is held against the
    length, and that against what it takes on the disk, before it is read.

    Raises:
        ArtefactError: it is not such a file, was changed, or is nearly all holes.
    """
    try:
        with safe_open(path, framework="numpy"):  # maps it, and checks its header
            status = path.stat()
        on_disk = 512 * getattr(status, "st_blocks", 0)  # 0: not known
        if on_disk and status.st_size > EXPANSION * on_disk + ALLOWANCE:
            raise ArtefactError(f"{path} has {status.st_size} bytes, but takes only {on_disk} on the disk")
        data = path.read_bytes()
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise ArtefactError(f"{path} was changed: its content does not have the hash that {PLAN} says")
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
    # KeyError: a data type that torch does not have.
    except (SafetensorError, KeyError, OSError, MemoryError) as error:
        raise ArtefactError(f"{path} is not a safetensors file that can be read: {error}") from None
    return tensors


def _check_patterns(plan: Plan, tensors: Mapping[str, Tensor], manifest: Manifest) -> None:
    for name, pattern in plan.patterns.items():
        value = tensors.get(manifest.tied.get(name, name))
        if value is None:
            raise ArtefactError(
                f"{MODEL} has no tensor {name!r}, of which {PLAN} has a pattern.{did_you_mean(name, tensors)}"
            )
        if tuple(value.shape) != pattern.partition.shape or not pattern.obeyed(value):
            raise ArtefactError(f"{MODEL}: {name} does not obey the pattern of blocks in {PLAN}")


def _fill(model: nn.Module, artefact: Artefact) -> None:
    stored, tied = artefact.tensors, artefact.manifest.tied
    found = tensors_of(model)
    # Tables that a forward makes anew for another size of input, and keeps: no part of the model's state.
    passing = dict(model.named_buffers(remove_duplicate=False)).keys() - model.state_dict().keys()
    for group in tensor_names(model):
        keys = {tied.get(name, name) for name in group}
        if len(keys) > 1:
            raise ArtefactError(f"{', '.join(group)} are one tensor in the model, but not in the artefact")
        (key,) = keys
        if key not in stored:
            raise ArtefactError(
                f"{MODEL} has no tensor {key!r}, which the model needs.{did_you_mean(key, stored)}"
            )
        old, new = found[group[0]], stored[key]
        if old.shape != new.shape and group[0] in passing:
            _replace_buffer(model, group, new if old.is_meta else new.to(old.device))
            continue
        if old.shape != new.shape:
            raise ArtefactError(
                f"{MODEL}: {key} has the shape {tuple(new.shape)}, the model needs {tuple(old.shape)}"
            )
        if old.is_floating_point() != new.is_floating_point() or old.is_complex() != new.is_complex():
            raise ArtefactError(f"{MODEL}: {key} is {new.dtype}, the model needs {old.dtype}")
        if key in artefact.manifest.channels_last and new.ndim == 4:
            new = new.contiguous(memory_format=torch.channels_last)
        elif old.ndim == 4:
            new = new.contiguous()
        if old.is_meta:
            _give_values(model, group, new)
            continue
        # The parameter object stays, so that names, ties and requires_grad do.
        old.data = new.to(old.device)
    for name in (*stored, *tied):
        if name not in found:
            raise ArtefactError(
                f"{MODEL} has a tensor {name!r:.200} that the model lacks.{did_you_mean(name, found)}"
            )


def _give_values(model: nn.Module, names: tuple[str, ...], value: Tensor) -> None:
    """Put a tensor with values in the place of one without, under all of its names."""
    given: nn.Parameter | None = None
    for name in names:
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        if leaf in owner._buffers:
            owner._buffers[leaf] = value
            continue
        old = owner._parameters[leaf]
        if given is None:
            given = nn.Parameter(value, requires_grad=bool(old is not None and old.requires_grad))
        owner._parameters[leaf] = given


def _replace_buffer(model: nn.Module, names: tuple[str, ...], value: Tensor) -> None:
    for name in names:
        path, _, leaf = name.rpartition(".")
        model.get_submodule(path)._buffers[leaf] = value


def _mapping(data: object, name: str) -> Mapping[str, Any]:
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ArtefactError(f"{name} must hold a mapping with names as keys")
    return data

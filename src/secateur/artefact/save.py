"""Save a smaller model with its plan, recipe and report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from secateur.ground.documents import to_yaml
from secateur.ground.errors import ArtefactError
from secateur.ground.tensors import tensor_names, tensors_of
from secateur.surgery.plan import Plan
from secateur.surgery.plan_json import plan_to_json

from .files import replacing, write
from .manifest import CARD, CONFIGS, MODEL, PAGE, PLAN, RECIPE, REPORT, Manifest

__all__ = ["save"]


def save(
    folder: str | PathLike[str],
    model: nn.Module,
    plan: Plan,
    recipe: Mapping[str, Any],
    report: Mapping[str, Any],
    page: str | None = None,
    card: str | None = None,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write an artefact: model.safetensors, plan.json, recipe.yaml, report.json and their manifest; return its folder.

    ``model`` is the smaller model, ``plan`` the plan that made it, ``page`` the report as HTML (report.html, if given),
    ``card`` the model card (README.md, if given), ``configs`` the configurations of a Hugging Face model by file name.
    Every parameter and buffer is saved, each tied tensor once. The folder appears as a whole or not at all, and an
    older artefact there is replaced as a whole, also while others read it or save there.

    Raises:
        ArtefactError: the recipe or the report is not plain data, the model has state that is not a tensor,
            the folder holds something else than an artefact, or cannot be written.
    """
    texts = {RECIPE: _yaml(recipe), REPORT: _json(report, REPORT)}
    tensors, tied, channels_last = _state(model)
    data = safetensors.torch.save(tensors)
    manifest = Manifest(
        model.training, tied, channels_last, size=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
    texts[PLAN] = _json(manifest.to_json(plan_to_json(plan)), PLAN)
    texts |= {name: text.encode() for name, text in ((PAGE, page), (CARD, card)) if text is not None}
    texts |= {name: _json(config, name) for name, config in (configs or {}).items() if name in CONFIGS}
    with replacing(Path(folder)) as fresh:
        write(fresh / MODEL, data)
        for name, text in texts.items():
            write(fresh / name, text)
    return Path(folder)


def _state(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str], frozenset[str]]:
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise ArtefactError(
                f"the state {name} is a {type(value).__name__}; only tensors can be saved without pickle"
            )
    known = tensors_of(model)
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    channels_last: set[str] = set()
    for first, *others in tensor_names(model):
        tensor = known[first].detach()
        if tensor.is_sparse or tensor.is_quantized or tensor.device.type == "meta":
            raise ArtefactError(f"{first} is not an ordinary tensor with values, and cannot be saved")
        tied.update(dict.fromkeys(others, first))
        last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
        if last and not tensor.is_contiguous():
            channels_last.add(first)
        # A copy of its own: tensors may be views of one another's memory.
        tensors[first] = tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)
    return tensors, tied, frozenset(channels_last)


def _json(data: Mapping[str, Any], name: str) -> bytes:
    indent = None if name == PLAN else 1
    separators = (",", ":") if name == PLAN else None
    try:
        return json.dumps(dict(data), indent=indent, separators=separators, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ArtefactError(f"{name} cannot be written: {error}") from None


def _yaml(recipe: Mapping[str, Any]) -> bytes:
    # Through JSON first, which says what is no plain data.
    return to_yaml(json.loads(_json(recipe, RECIPE))).encode()

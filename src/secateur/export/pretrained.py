"""Pruned Hugging Face models: saved with their configuration, loaded without the dense weights and without pickle."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.artefact import Artefact, read, save
from secateur.artefact.files import find, parse_json, read_text
from secateur.artefact.load import onto
from secateur.artefact.manifest import MODEL, PLAN
from secateur.ground.errors import ArtefactError, ExportError, did_you_mean
from secateur.ground.tensors import tensors_of
from secateur.report import page
from secateur.result import Result
from secateur.surgery import fingerprint

from .configuration import (
    check_generation,
    check_keys,
    check_plain,
    counted_modules,
    model_class,
    plain,
)
from .uniform import WIDTHS, uniform_widths, with_biases

__all__ = ["example_of", "is_pretrained", "load_pretrained", "save_pretrained"]

CONFIG, GENERATION = "config.json", "generation_config.json"
OURS = "secateur"
ATTENTION = ("eager", "sdpa")  # transformers takes any other name for that of a kernel to download
DENSE, LARGER = 2**24, 256  # a dense model has at most so many values, or so many for each that is saved
MODULES = 10_000, 64  # the same of modules, for each tensor


def save_pretrained(result: Result, folder: str | PathLike[str]) -> Path:
    """Save a pruned Hugging Face model as an artefact with the configuration of the dense one; return its folder.

    `load_pretrained` reads it in a fresh process. Where all layers have the same widths (`Limits(uniform=True)`) the
    configuration has those, and ``from_pretrained`` of transformers reads the folder as well, without secateur.
    A tokenizer can be saved into the same folder afterwards.

    Raises:
        ExportError: the model is not one of the library transformers.
        ArtefactError: the folder holds something else, see `secateur.artefact.save`.
    """
    model: Any = result.model
    if type(model) is not model_class(type(model).__name__):
        raise ExportError(
            f"{type(model).__module__}.{type(model).__name__} is not a model class of transformers: use "
            "Result.save and secateur.load, which take any class."
        )
    config = model.config
    data = plain(json.loads(config.to_json_string(use_diff=False)))
    data["architectures"] = [type(model).__name__]
    try:
        check_plain(data, CONFIG)
        check_keys(data, type(model).config_class, CONFIG)
    except ArtefactError as error:
        raise ExportError(f"load_pretrained would not read it again: {error}") from None
    own: dict[str, Any] = {"attention": config._attn_implementation}
    try:
        x, _ = example_of(model, None)
    except ExportError:
        widths: dict[str, int] = {}
    else:
        widths = uniform_widths(model, data, result.whole, _maker(type(model), own["attention"]), x)
    if widths:
        own["dense"] = {key: data.get(key) for key in widths}
    configs = {CONFIG: data | widths | {OURS: own}}
    if (generation := getattr(model, "generation_config", None)) is not None:
        configs[GENERATION] = plain(json.loads(generation.to_json_string()))
    report = result.report
    html = page({report.model: report})
    return save(folder, model, result.whole, report.recipe, report.to_json(), html, report.to_card(), configs)


def load_pretrained(folder: str | PathLike[str]) -> nn.Module:
    """Return the pruned model of a folder that `save_pretrained` wrote, with bit-equal weights.

    The class is looked up by name in the installed transformers, nowhere else, and only families that are made from
    plain sizes are let in (`configuration.FAMILIES`). Nothing is unpickled, downloaded or executed: every key is
    checked against those of the class before a library sees it, and the dense model is made without values first.

    Raises:
        ArtefactError: a file is missing, changed, hostile, or made for another model or version of transformers.
        ExportError: transformers is not installed.
    """
    path = find(Path(folder))
    data = _object(path, CONFIG)
    own = data.pop(OURS, None)
    if not isinstance(own, dict) or own.get("attention") not in ATTENTION:
        raise ArtefactError(
            f"{CONFIG} has no entry {OURS!r} with an attention of {' or '.join(ATTENTION)}: was the folder written "
            "by secateur.export.save_pretrained?"
        )
    data = _dense(data, own.get("dense", {}))
    check_plain(data, CONFIG)
    names = data.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise ArtefactError(f"{CONFIG} must name one class under architectures")
    kind = model_class(names[0])
    if kind is None:
        import transformers

        raise ArtefactError(
            f"{CONFIG} is for {names[0]!r:.80}, which transformers {transformers.__version__} does not have."
            f"{did_you_mean(names[0], dir(transformers))}"
        )
    check_keys(data, kind.config_class, CONFIG)
    generation = _generation(path) if (path / GENERATION).exists() else None
    artefact = read(path)

    def build() -> Any:
        return with_biases(_maker(kind, own["attention"])(data), artefact.tensors)

    try:
        _check_size(build, artefact)
        fresh = build()
    except ArtefactError:
        raise
    except Exception as error:  # configurations check themselves in many ways
        raise ArtefactError(f"{CONFIG} does not make a {names[0]}: {str(error)[:300]!r}") from error
    if generation is not None and getattr(fresh, "generation_config", None) is not None:
        fresh.generation_config = generation
    return onto(artefact, lambda: fresh, path)


def _maker(kind: Any, attention: str) -> Callable[[Mapping[str, Any]], nn.Module]:
    """Return what makes a model of a class from plain data."""

    def make(data: Mapping[str, Any]) -> Any:
        # Each time from data of its own: configurations are changed by those who read them.
        settings = kind.config_class.from_dict(copy.deepcopy(dict(data)))
        return kind._from_config(settings, attn_implementation=attention)

    return make


def _dense(data: dict[str, Any], widths: object) -> dict[str, Any]:
    """Return the configuration of the dense model, whose widths stand beside those of the pruned one."""
    if not isinstance(widths, dict) or not all(
        key in WIDTHS and (value is None or type(value) is int) for key, value in widths.items()
    ):
        raise ArtefactError(f"{CONFIG}: the entry {OURS!r} must give widths of the dense model as integers")
    known = {key: value for key, value in widths.items() if value is not None}
    return {key: value for key, value in data.items() if key not in widths} | known


def _check_size(build: Callable[[], nn.Module], artefact: Artefact) -> None:
    """Make the dense model without values, and check that it is the plan's and of a size that fits the artefact's."""
    most, each = MODULES
    with torch.device("meta"), counted_modules(most + each * len(artefact.tensors), CONFIG):
        sketch = build()
    made_for, found = artefact.plan.steps[0].made_for, fingerprint(sketch)
    if found != made_for:
        raise ArtefactError(
            f"{PLAN} does not fit {CONFIG}: the plan was made for another {made_for.model!r:.80} than the "
            f"{found.model} that the configuration makes"
        )
    dense = sum(t.numel() for t in {id(t): t for t in tensors_of(sketch).values()}.values())
    saved = sum(t.numel() for t in artefact.tensors.values())
    if dense > DENSE + LARGER * saved:
        raise ArtefactError(f"{CONFIG} asks for {dense:,} values, far more than the {saved:,} of {MODEL}")


def is_pretrained(folder: Path) -> bool:
    """Say whether a folder is one that `save_pretrained` wrote."""
    return folder.is_dir() and (find(folder) / CONFIG).is_file()


def example_of(model: Any, sizes: tuple[int, ...] | None) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """Return random inputs of a Hugging Face model, by keyword, and the dimensions that are free in them.

    `sizes` are those of the main input: samples and tokens for text, of which length is free as well.

    Raises:
        ExportError: the main input is neither tokens nor pictures.
    """
    generator = torch.Generator().manual_seed(0)
    name, config = model.main_input_name, model.config
    if name == "input_ids":
        shape = sizes or (2, min(32, getattr(config, "max_position_embeddings", 32)))
        ids = torch.randint(0, config.vocab_size, shape, generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, (0, 1)
    if name == "pixel_values" and (sizes or hasattr(config, "image_size")):
        shape = sizes or _picture(config)
        return {"pixel_values": torch.rand(shape, generator=generator)}, (0,)
    raise ExportError(
        f"The inputs of {type(model).__name__} ({name}) are not known here: export it from Python with "
        "secateur.export.to_onnx(model, inputs, file)."
    )


def _object(path: Path, name: str) -> dict[str, Any]:
    data = parse_json(read_text(path, name), name)
    if not isinstance(data, dict):
        raise ArtefactError(f"{name} must hold an object")
    return data


def _picture(config: Any) -> tuple[int, ...]:
    side = config.image_size
    height, width = side if isinstance(side, list | tuple) else (side, side)
    return (2, config.num_channels, height, width)


def _generation(path: Path) -> Any:
    import transformers

    data = _object(path, GENERATION)
    check_generation(data, GENERATION)
    return transformers.GenerationConfig.from_dict(data)

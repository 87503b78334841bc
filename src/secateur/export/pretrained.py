"""Pruned Hugging Face models: saved with their configuration, loaded without the dense weights and without pickle."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.artefact import load, save
from secateur.artefact.files import find, parse_json, read_text
from secateur.ground.errors import ArtefactError, ExportError, did_you_mean
from secateur.report import page
from secateur.result import Result

__all__ = ["example_of", "is_pretrained", "load_pretrained", "save_pretrained"]

CONFIG, GENERATION = "config.json", "generation_config.json"
OURS = "secateur"
ATTENTION = ("eager", "sdpa")  # transformers takes any other name for that of a kernel to download
REFUSED = (
    "auto_map",
    "quantization_config",
    "custom_pipelines",
    "trust_remote_code",
    "base_model_name_or_path",
)


def save_pretrained(result: Result, folder: str | PathLike[str]) -> Path:
    """Save a pruned Hugging Face model as an artefact with the configuration of the dense one; return its folder.

    `load_pretrained` reads it in a fresh process. A tokenizer can be saved into the same folder afterwards.

    Raises:
        ExportError: the model is not one of the library transformers.
        ArtefactError: the folder holds something else, see `secateur.artefact.save`.
    """
    model = result.model
    if type(model) is not _model_class(type(model).__name__):
        raise ExportError(
            f"{type(model).__module__}.{type(model).__name__} is not a model class of transformers: use "
            "Result.save and secateur.load, which take any class."
        )
    config: Any = model.config
    data = json.loads(config.to_json_string(use_diff=False))
    data = {k: v for k, v in data.items() if k not in REFUSED}
    data |= {"architectures": [type(model).__name__], OURS: {"attention": config._attn_implementation}}
    configs = {CONFIG: data}
    if (generation := getattr(model, "generation_config", None)) is not None:
        configs[GENERATION] = json.loads(generation.to_json_string())
    report = result.report
    html = page({report.model: report})
    return save(folder, model, result.plan, report.recipe, report.to_json(), html, configs)


def load_pretrained(folder: str | PathLike[str]) -> nn.Module:
    """Return the pruned model of a folder that `save_pretrained` wrote, with bit-equal weights.

    The class is looked up by name in the installed transformers, nowhere else. Nothing is unpickled, downloaded or
    executed: a configuration that names code or weights from elsewhere is refused.

    Raises:
        ArtefactError: a file is missing, changed, hostile, or made for another model or version of transformers.
        ExportError: transformers is not installed.
    """
    path = find(Path(folder))
    data = parse_json(read_text(path, CONFIG), CONFIG)
    if not isinstance(data, dict):
        raise ArtefactError(f"{CONFIG} must hold an object")
    own = data.pop(OURS, None)
    if not isinstance(own, dict) or own.get("attention") not in ATTENTION:
        raise ArtefactError(
            f"{CONFIG} has no entry {OURS!r} with an attention of {' or '.join(ATTENTION)}: was the folder written "
            "by secateur.export.save_pretrained?"
        )
    _refuse_foreign(data, CONFIG)
    names = data.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise ArtefactError(f"{CONFIG} must name one class under architectures")
    kind = _model_class(names[0])
    if kind is None:
        import transformers

        raise ArtefactError(
            f"{CONFIG} is for {names[0]!r:.80}, which transformers {transformers.__version__} does not have."
            f"{did_you_mean(names[0], dir(transformers))}"
        )
    try:
        config = kind.config_class.from_dict(data)
        fresh = kind._from_config(config, attn_implementation=own["attention"])
    except Exception as error:  # configurations check themselves in many ways
        raise ArtefactError(f"{CONFIG} does not make a {names[0]}: {str(error)[:300]}") from error
    if getattr(fresh, "generation_config", None) is not None and (path / GENERATION).exists():
        fresh.generation_config = _generation(path)
    return load(path, lambda: fresh)


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
        side = getattr(config, "image_size", None)
        height, width = side if isinstance(side, list | tuple) else (side, side)
        shape = sizes or (2, config.num_channels, height, width)
        return {"pixel_values": torch.rand(shape, generator=generator)}, (0,)
    raise ExportError(
        f"The inputs of {type(model).__name__} ({name}) are not known here: export it from Python with "
        "secateur.export.to_onnx(model, inputs, file)."
    )


def _generation(path: Path) -> Any:
    import transformers

    data = parse_json(read_text(path, GENERATION), GENERATION)
    if not isinstance(data, dict):
        raise ArtefactError(f"{GENERATION} must hold an object")
    _refuse_foreign(data, GENERATION)
    return transformers.GenerationConfig.from_dict(data)


def _model_class(name: str) -> Any:
    """Return the class of that name in transformers, or None."""
    try:
        import transformers
    except ImportError as error:
        raise ExportError(
            f"Hugging Face models need transformers, which cannot be imported ({error}): "
            "pip install 'secateur[transformers]'"
        ) from None
    found = getattr(transformers, name, None) if name.isidentifier() and not name.startswith("_") else None
    if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
        return found
    return None


def _refuse_foreign(data: object, where: str) -> None:
    """Refuse settings by which transformers fetches code, kernels or weights."""
    entries: list[tuple[str, object]] = []
    if isinstance(data, dict):
        entries = [(str(k), v) for k, v in data.items()]
    elif isinstance(data, list):
        entries = [("", v) for v in data]
    for key, value in entries:
        foreign = key in REFUSED or key.endswith("_implementation") or key.startswith("use_pretrained")
        if foreign and value:
            raise ArtefactError(f"{where} sets {key!r}, which names code or weights from elsewhere: refused")
        _refuse_foreign(value, where)

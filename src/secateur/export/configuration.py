"""Configurations of Hugging Face models from files: what is allowed in one, checked before any library sees it."""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch.nn.modules.module import register_module_module_registration_hook

from secateur.ground.errors import ArtefactError, ExportError, did_you_mean

__all__ = [
    "FAMILIES",
    "check_generation",
    "check_keys",
    "check_plain",
    "counted_modules",
    "model_class",
    "plain",
]

_NAMES = (
    "albert bart beit bert bert-generation bloom camembert clip clip_text_model clip_vision_model convbert convnext "
    "convnextv2 cvt data2vec-text data2vec-vision deberta deberta-v2 deit dinov2 distilbert efficientnet electra "
    "ernie falcon gemma gemma2 gemma3_text gpt2 gpt_bigcode gpt_neo gpt_neox gptj granite hubert levit llama "
    "mbart mistral mixtral mobilebert mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2 modernbert mpnet mt5 olmo olmo2 "
    "opt persimmon phi phi3 poolformer pvt pvt_v2 qwen2 qwen2_moe qwen3 qwen3_moe regnet rembert resnet roberta "
    "roberta-prelayernorm roformer segformer siglip siglip_text_model siglip_vision_model smollm3 squeezebert stablelm "
    "starcoder2 swin swinv2 t5 timm_wrapper vit vit_msn wav2vec2 whisper xglm xlm-roberta xlm-roberta-xl"
)
FAMILIES = frozenset(_NAMES.split())
"""Model types whose configuration holds plain sizes and makes the whole model: no backbone, code or file by name."""

_REFUSED = re.compile(
    r"auto_map|custom_.*|trust_remote.*|quantization.*|.*backbone.*|.*checkpoint.*|(use_)?pretrained(?!_window_sizes).*"
    r"|.*_implementation|.*_(path|file|url|repo)|base_model.*|kernel_config|use_kernels"
    r"|sinusoidal_pos_embds"  # made number by number, in Python
)
_BASE = frozenset(
    (
        "model_type",
        "architectures",
        "output_attentions",
        "tie_word_embeddings",
        "transformers_version",
        "_name_or_path",
    )
)
_TIMM = frozenset(("num_classes", "label_names"))
_TIMM_NAMES = (
    "depth depths dims drop_path_rate drop_rate embed_dim embed_dims img_size in_chans mlp_ratio num_classes num_heads "
    "patch_size qkv_bias window_size"
)
_TIMM_SIZES = frozenset(_TIMM_NAMES.split())
_WORD = re.compile(r"[\w.+\- ]{0,64}")
_LABELS = ("id2label", "label2id", "label_names")
_ROPE = ("rope_parameters", "rope_scaling")
_COUNT = re.compile(r"num_|n_|.*(layer|depth|block)")  # how often something is made in a loop
MAX_COUNT, MAX_NUMBER, MAX_LIST = 2**16, 2**31, 4096


def plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without what says where weights, code or tokenizers came from.

    >>> plain({"hidden_size": 8, "_name_or_path": "bert-base-uncased", "quantization_config": {}})
    {'hidden_size': 8}
    """
    return {
        key: plain(value) if isinstance(value, dict) and key not in _LABELS else value
        for key, value in data.items()
        if not _REFUSED.fullmatch(key)
        and key not in ("_name_or_path", "task_specific_params", "pretrained_cfg")
    }


def check_plain(data: Mapping[str, Any], where: str) -> None:
    """Check that a configuration is plain sizes, switches and words: nothing by which a library finds code or files.

    Raises:
        ArtefactError: a key or a value is not allowed; the message names it.
    """
    for key, value in data.items():
        at = f"{where}: {key!r:.80}"
        if value in (None, False, "") or value == {}:
            continue
        if key == "_name_or_path" or _REFUSED.fullmatch(key):
            raise ArtefactError(f"{at} is {value!r:.60}, which names code or weights from elsewhere: refused")
        if key in _LABELS:
            _check_labels(value, at)
        elif isinstance(value, dict):
            check_plain(value, f"{where}: {key:.80}")
        else:
            _check_value(value, at, MAX_COUNT if _COUNT.match(key) else MAX_NUMBER)


def model_class(name: str) -> Any:
    """Return the class of that name in the installed transformers, or None.

    Raises:
        ExportError: transformers is not installed.
    """
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


def check_generation(data: Mapping[str, Any], where: str) -> None:
    """Check settings of generation: known names, plain values.

    Raises:
        ArtefactError: a key or a value is not allowed.
    """
    import transformers

    check_plain(data, where)
    defaults: Any = transformers.GenerationConfig
    known = {k for k in defaults().to_dict() if not k.startswith("_")} | {"_from_model_config"}
    for key in data.keys() - known - _BASE:
        raise ArtefactError(f"{where} has an unknown entry {key!r:.60}.{did_you_mean(key, known)}")


@contextmanager
def counted_modules(limit: int, where: str) -> Iterator[None]:
    """Bound how many modules this thread makes within: a number in a file may ask for any number of layers.

    Raises:
        ArtefactError: there are more.
    """
    left, thread = limit, threading.get_ident()

    def count(*_: object) -> None:
        nonlocal left
        if threading.get_ident() == thread:
            left -= 1
        if left < 0:
            raise ArtefactError(
                f"{where} asks for more than {limit} modules, far more than the artefact has tensors"
            )

    handle = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def check_keys(data: Mapping[str, Any], config: Any, where: str) -> None:
    """Check that all keys of `data` are those of a configuration class.

    Raises:
        ArtefactError: the class is not one of `FAMILIES`, or a key is not known.
    """
    family = config.model_type
    if family not in FAMILIES:
        raise ArtefactError(
            f"{where} is of the family {family!r:.60}, which is not loaded from files: it may name weights or code. "
            "Build the dense model yourself and give it to secateur.load."
        )
    if data.get("model_type") != family:
        raise ArtefactError(
            f"{where}: model_type is {data.get('model_type')!r:.60}, its class is for {family!r}"
        )
    # What a configuration makes of its entries, it writes into its file as well.
    known = {*inspect.signature(config.__init__).parameters, *config().to_dict(), *_BASE} - {
        "self",
        "kwargs",
        "args",
    }
    if family == "timm_wrapper":
        known |= _TIMM
        sizes = data.get("model_args") or {}
        if not isinstance(sizes, dict):
            raise ArtefactError(f"{where}: model_args must be an object")
        for key, value in sizes.items():
            if key not in _TIMM_SIZES or isinstance(value, str | dict):
                raise ArtefactError(
                    f"{where}: model_args has {key!r:.60}: plain sizes only, {', '.join(sorted(_TIMM_SIZES))}"
                )
    nested = getattr(config, "sub_configs", {})
    for key, value in data.items():
        if key not in known:
            raise ArtefactError(f"{where} has an unknown entry {key!r:.60}.{did_you_mean(key, known)}")
        if not isinstance(value, dict) or not value or key in _LABELS or key in _ROPE or key == "model_args":
            continue
        if key not in nested or not hasattr(nested[key], "model_type"):
            raise ArtefactError(f"{where}: {key} must not be an object")
        check_keys(value, nested[key], f"{where}: {key}")


def _check_labels(value: object, at: str) -> None:
    entries = (
        value if isinstance(value, list) else [*value, *value.values()] if isinstance(value, dict) else [None]
    )
    for entry in entries:
        if not isinstance(entry, str | int):
            raise ArtefactError(f"{at} must be names of classes")


def _check_value(value: object, at: str, most: int) -> None:
    if isinstance(value, list):
        if len(value) > MAX_LIST:
            raise ArtefactError(f"{at} has {len(value)} entries, at most {MAX_LIST} are allowed")
        for entry in value:
            if isinstance(entry, dict):
                raise ArtefactError(f"{at} must not hold objects")
            _check_value(entry, at, most)
    elif isinstance(value, str):
        if not _WORD.fullmatch(value) or ".." in value:
            raise ArtefactError(
                f"{at} is {value!r:.80}, which is no plain word: it may name code, files or a hub"
            )
    elif isinstance(value, int | float) and not -most <= value <= most:
        raise ArtefactError(f"{at} is {value!r:.40}, more than the {most} that is allowed")

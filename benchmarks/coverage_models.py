"""The models of benchmarks/coverage.py: what people bring, made small where a family allows it. Nothing is downloaded.

Each entry makes an untrained model in eval mode and the keyword or positional inputs of a batch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from coverage_timm import TIMM
from torch import Tensor, nn

__all__ = ["MODELS", "Entry"]

Inputs = tuple[Any, ...] | dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A model by name, and how to make it and a batch of its inputs."""

    source: str
    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int, torch.Generator], Inputs]  # of a batch size


def pictures(size: int) -> Callable[[int, torch.Generator], Inputs]:
    return lambda batch, generator: (torch.randn(batch, 3, size, size, generator=generator),)


# --------------------------------------------------------------------------------------------------- torchvision

_CLASSIFICATION = {
    64: "resnet18 resnet34 resnet50 resnet101 resnext50_32x4d wide_resnet50_2 densenet121 densenet169 efficientnet_b0 "
    "efficientnet_b1 efficientnet_b3 efficientnet_v2_s mobilenet_v2 mobilenet_v3_small mobilenet_v3_large mnasnet0_5 "
    "mnasnet1_0 regnet_x_400mf regnet_y_400mf regnet_x_3_2gf regnet_y_3_2gf shufflenet_v2_x0_5 shufflenet_v2_x1_0 "
    "shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 convnext_tiny convnext_small vgg11 vgg16_bn vgg19 alexnet "
    "googlenet resnet152 resnext101_32x8d resnext101_64x4d wide_resnet101_2 densenet161 densenet201 efficientnet_b2 "
    "efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_v2_m efficientnet_v2_l mnasnet0_75 "
    "mnasnet1_3 regnet_x_800mf regnet_x_1_6gf regnet_x_8gf regnet_x_16gf regnet_x_32gf regnet_y_800mf regnet_y_1_6gf "
    "regnet_y_8gf regnet_y_16gf regnet_y_32gf shufflenet_v2_x1_5 convnext_base convnext_large vgg11_bn vgg13 vgg13_bn "
    "vgg16 vgg19_bn",
    96: "inception_v3",
    224: "swin_t swin_v2_t vit_b_16 vit_b_32 maxvit_t swin_s swin_b swin_v2_s swin_v2_b",
}
# More than 200 million parameters: as wide as they are, two layers deep. (hidden, heads, MLP, patch)
_LARGE = {
    "vit_l_16": (1024, 16, 4096, 16),
    "vit_l_32": (1024, 16, 4096, 32),
    "vit_h_14": (1280, 16, 5120, 14),
}
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
}
_SEGMENTATION = (
    "fcn_resnet50 fcn_resnet101 deeplabv3_resnet50 deeplabv3_resnet101 deeplabv3_mobilenet_v3_large "
    "lraspp_mobilenet_v3_large"
)
_DETECTION = "resnet18 resnet50 resnet101 mobilenet_v3_large"
_VIDEO = ("r3d_18", "r2plus1d_18", "mc3_18")


def _torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import torchvision

        model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
        return model

    return make


def _shallow(hidden: int, heads: int, mlp: int, patch: int) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import torchvision

        model: nn.Module = torchvision.models.VisionTransformer(224, patch, 2, heads, hidden, mlp)
        return model

    return make


def _backbone(name: str) -> Callable[[], nn.Module]:
    """A detector's backbone with its feature pyramid."""

    def make() -> nn.Module:
        from torchvision.models.detection import backbone_utils

        kind = "mobilenet" if name.startswith("mobilenet") else "resnet"
        build = getattr(
            backbone_utils, "mobilenet_backbone" if kind == "mobilenet" else "resnet_fpn_backbone"
        )
        model: nn.Module = build(
            backbone_name=name, weights=None, **({"fpn": True} if kind == "mobilenet" else {})
        )
        return model

    return make


def _clips(batch: int, generator: torch.Generator) -> Inputs:
    return (torch.randn(batch, 3, 4, 32, 32, generator=generator),)


def _torchvision_models() -> list[Entry]:
    found = [
        Entry("torchvision", name, _torchvision(name, **_OPTIONS.get(name, {})), pictures(size))
        for size, names in _CLASSIFICATION.items()
        for name in names.split()
    ]
    found += [Entry("torchvision", name, _shallow(*size), pictures(224)) for name, size in _LARGE.items()]
    for name in _SEGMENTATION.split():
        options = {"weights_backbone": None, "num_classes": 21}
        found.append(Entry("torchvision", name, _torchvision(name, **options), pictures(64)))
    found += [Entry("torchvision", f"{n}_fpn", _backbone(n), pictures(64)) for n in _DETECTION.split()]
    found += [Entry("torchvision", name, _torchvision(name), _clips) for name in _VIDEO]
    return found


# ---------------------------------------------------------------------------------------------------------- timm

_STANDARDISED = ("nf_regnet_b0", "nf_resnet50")  # their convolutions compute their weights


def _timm(name: str, options: Mapping[str, Any]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm

        model: nn.Module = timm.create_model(name, pretrained=False, num_classes=10, **options)
        return model

    return make


def _folded(make: Callable[[], nn.Module], size: int) -> Callable[[], nn.Module]:
    """Make a model whose computed weights are plain, as its users would before they prune it."""

    def made() -> nn.Module:
        import secateur

        return secateur.fold_weights(make().eval(), torch.zeros(2, 3, size, size))

    return made


def _timm_models() -> Iterator[Entry]:
    for name, (size, options) in TIMM.items():
        make = _timm(name, options)
        yield Entry("timm", name, _folded(make, size) if name in _STANDARDISED else make, pictures(size))


# -------------------------------------------------------------------------------------------------- Hugging Face


def _tokens(*names: str, length: int = 16, vocabulary: int = 96) -> Callable[[int, torch.Generator], Inputs]:
    def inputs(batch: int, generator: torch.Generator) -> dict[str, Tensor]:
        ids = {
            n: torch.randint(3, vocabulary, (batch, length), generator=generator)
            for n in names
            if "mask" not in n
        }
        return ids | {n: torch.ones(batch, length, dtype=torch.long) for n in names if "mask" in n}

    return inputs


def _hugging_face(model: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        made: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**options))
        return made

    return make


_TEXT = {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_ENCODER = {**_TEXT, "intermediate_size": 128, "max_position_embeddings": 64}
_DECODER = {**_ENCODER, "num_key_value_heads": 2, "use_cache": False}
_VISION = {**{k: v for k, v in _TEXT.items() if k != "vocab_size"}, "intermediate_size": 128, "image_size": 32,
           "patch_size": 8}  # fmt: skip


def _values(batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(batch, 3, 32, 32, generator=generator)}


def _clip(batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    ids = torch.randint(3, 96, (batch, 16), generator=generator)
    ids[:, -1] = 95
    return {"input_ids": ids, **_values(batch, generator)}


def _whisper(batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    ids = torch.randint(3, 96, (batch, 8), generator=generator)
    return {"input_features": torch.randn(batch, 8, 64, generator=generator), "decoder_input_ids": ids}


def _wave(batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {"input_values": torch.randn(batch, 1600, generator=generator)}


def _hugging_face_models() -> list[Entry]:
    tokens, both = _tokens("input_ids"), _tokens("input_ids", "attention_mask")
    seq2seq = _tokens("input_ids", "decoder_input_ids", length=8)
    distil = {
        "vocab_size": 96,
        "dim": 64,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 128,
        "max_position_embeddings": 64,
    }
    gpt2 = {"vocab_size": 96, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "use_cache": False,
            "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
    opt = {
        **_TEXT,
        "ffn_dim": 128,
        "max_position_embeddings": 64,
        "word_embed_proj_dim": 64,
        "use_cache": False,
    }
    t5 = {
        "vocab_size": 96,
        "d_model": 64,
        "d_kv": 16,
        "d_ff": 128,
        "num_layers": 2,
        "num_heads": 4,
        "use_cache": False,
    }
    swin = {
        "embed_dim": 32,
        "depths": [2, 2],
        "num_heads": [2, 4],
        "window_size": 4,
        "image_size": 32,
        "patch_size": 2,
    }
    clip = {"text_config": {**_ENCODER, "eos_token_id": 95}, "vision_config": _VISION, "projection_dim": 32}
    whisper = {"vocab_size": 96, "num_mel_bins": 8, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2,
               "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 128,
               "decoder_ffn_dim": 128, "max_source_positions": 32, "max_target_positions": 32, "use_cache": False,
               "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}  # fmt: skip
    wave = {**_ENCODER, "conv_dim": [32, 32], "conv_stride": [5, 4], "conv_kernel": [10, 8], "conv_bias": False,
            "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4}  # fmt: skip
    seg = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 64, 64], "num_attention_heads": [1, 2, 4, 4],
           "decoder_hidden_size": 64}  # fmt: skip
    mobile = {
        "image_size": 32,
        "hidden_sizes": [32, 48, 64],
        "neck_hidden_sizes": [16, 16, 24, 32, 48, 64, 128],
    }
    dinov2 = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    convnext = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]}
    resnet = {"hidden_sizes": [32, 64], "depths": [1, 1], "embedding_size": 16}
    entries: list[tuple[str, str, str, dict[str, Any], Callable[[int, torch.Generator], Inputs]]] = [
        ("bert", "BertModel", "BertConfig", _ENCODER, both),
        ("distilbert", "DistilBertModel", "DistilBertConfig", distil, both),
        ("roberta", "RobertaModel", "RobertaConfig", _ENCODER, both),
        ("gpt2", "GPT2LMHeadModel", "GPT2Config", gpt2, tokens),
        ("opt", "OPTForCausalLM", "OPTConfig", opt, both),
        ("llama", "LlamaForCausalLM", "LlamaConfig", _DECODER, tokens),
        ("mistral", "MistralForCausalLM", "MistralConfig", _DECODER, tokens),
        ("qwen2", "Qwen2ForCausalLM", "Qwen2Config", _DECODER, tokens),
        ("qwen3", "Qwen3ForCausalLM", "Qwen3Config", {**_DECODER, "head_dim": 16}, tokens),
        ("gemma", "GemmaForCausalLM", "GemmaConfig", {**_DECODER, "head_dim": 16}, tokens),
        ("phi3", "Phi3ForCausalLM", "Phi3Config", {**_DECODER, "pad_token_id": 0}, tokens),
        ("t5", "T5ForConditionalGeneration", "T5Config", t5, seq2seq),
        ("vit", "ViTModel", "ViTConfig", _VISION, _values),
        ("deit", "DeiTModel", "DeiTConfig", _VISION, _values),
        ("dinov2", "Dinov2Model", "Dinov2Config", dinov2, _values),
        ("swin", "SwinModel", "SwinConfig", swin, _values),
        ("clip", "CLIPModel", "CLIPConfig", clip, _clip),
        ("segformer", "SegformerForSemanticSegmentation", "SegformerConfig", seg, _values),
        ("whisper", "WhisperForConditionalGeneration", "WhisperConfig", whisper, _whisper),
        ("wav2vec2", "Wav2Vec2Model", "Wav2Vec2Config", wave, _wave),
        ("mobilevit", "MobileViTModel", "MobileViTConfig", mobile, _values),
        ("convnext", "ConvNextModel", "ConvNextConfig", convnext, _values),
        ("resnet", "ResNetModel", "ResNetConfig", resnet, _values),
    ]  # fmt: skip
    return [
        Entry("transformers", name, _hugging_face(model, config, **options), inputs)
        for name, model, config, options, inputs in entries
    ]


# ------------------------------------------------------------------------------------------------ other families


def _families() -> Iterator[Entry]:
    """Yield the small networks of tests/helpers/families.py: detectors, vocoders, graphs, tables, experts."""
    sys.path.append(str(Path(__file__).parent.parent / "tests" / "helpers"))
    from families import FAMILIES  # type: ignore[import-not-found]

    for family in FAMILIES:
        yield Entry("families", family.name, family.model, family.draw)


MODELS: tuple[Entry, ...] = (
    *_torchvision_models(),
    *_timm_models(),
    *_hugging_face_models(),
    *_families(),
)

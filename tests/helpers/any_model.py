"""Reduced configurations of models that people bring: transformers of every form, and code that repeats sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from models import randomise
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ANY", "AnyModel"]

Inputs = Callable[[int, torch.Generator], Mapping[str, Tensor]]


@dataclass(frozen=True)
class AnyModel:
    """A model and its inputs by name, how many groups it has, and whether numbers in its code become others."""

    name: str
    make: Callable[[], nn.Module]
    inputs: Inputs
    groups: int
    rewritten: bool = False

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return randomise(self.make(), 0).eval()

    def batch(self, count: int, seed: int = 0) -> dict[str, Any]:
        return dict(self.inputs(count, torch.Generator().manual_seed(seed)))


def pictures(name: str, size: int) -> Inputs:
    return lambda batch, rng: {name: torch.randn(batch, 3, size, size, generator=rng)}


def tokens(*names: str) -> Inputs:
    return lambda batch, rng: {n: torch.randint(3, 96, (batch, 8), generator=rng) for n in names}


def _hugging_face(model: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        made: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**options))
        return made

    return make


def _vision_transformer() -> nn.Module:
    from torchvision.models import VisionTransformer

    model = VisionTransformer(16, 8, 1, 4, 32, 48, num_classes=5)
    nn.init.normal_(model.heads.head.weight, std=0.1)  # zero, as torchvision leaves it
    return model


def _swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    return SwinTransformer([4, 4], 24, [1, 1], [3, 3], [2, 2], num_classes=5)


class Cosine(nn.Module):
    """Attention with separate projections, a scale for each head, a relative bias, and widths from its input."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 16), nn.LayerNorm(16)
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
        self.scale, self.table = nn.Parameter(torch.ones(4, 1, 1)), nn.Parameter(torch.zeros(9, 4))
        self.out, self.head, self.drop = nn.Linear(16, 16), nn.Linear(16, 3), nn.Dropout(0.5)
        index = torch.arange(5)
        self.register_buffer("index", index[:, None] - index + 4, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        n, t, width = x.shape
        y = self.norm(x)
        q, k, v = (p(y).reshape(n, t, 4, width // 4).transpose(1, 2) for p in (self.q, self.k, self.v))
        weights = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)) * self.scale
        weights = (weights + self.table[self.index].permute(2, 0, 1)).softmax(-1)
        y = (weights @ v).transpose(1, 2).reshape(n, t, width)
        return self.head((x + self.drop(self.out(y))).mean(1))


class Encoder(nn.Module):
    """Torch's own encoder on padded samples: in evaluation its layers are single native calls on packed samples."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
        self.embed, self.encoder, self.head = (
            nn.Linear(6, 16),
            nn.TransformerEncoder(layer, 2),
            nn.Linear(16, 3),
        )

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x), src_key_padding_mask=padding).mean(1))


def _padded(batch: int, rng: torch.Generator) -> Mapping[str, Tensor]:
    length = torch.randint(2, 6, (batch, 1), generator=rng)
    return {"x": torch.randn(batch, 5, 6, generator=rng), "padding": torch.arange(5) >= length}


_TEXT = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
_ENCODER = {**_TEXT, "intermediate_size": 40, "max_position_embeddings": 32}
_DECODER = {**_ENCODER, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 3,
            "use_cache": False}  # fmt: skip
_GPT2 = {"vocab_size": 96, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 32, "use_cache": False,
         "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
_T5 = {
    "vocab_size": 96,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 40,
    "num_layers": 1,
    "num_heads": 4,
    "use_cache": False,
}
_VIT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 40,
        "image_size": 16, "patch_size": 8}  # fmt: skip
_SEGFORMER = {"depths": [1, 1], "num_encoder_blocks": 2, "hidden_sizes": [16, 32], "num_attention_heads": [2, 4],
              "sr_ratios": [2, 1], "mlp_ratios": [2, 2], "patch_sizes": [7, 3], "strides": [4, 2]}  # fmt: skip

ANY = (
    AnyModel("bert", _hugging_face("BertModel", "BertConfig", **_ENCODER), tokens("input_ids"), 2),
    AnyModel("gpt2", _hugging_face("GPT2LMHeadModel", "GPT2Config", **_GPT2), tokens("input_ids"), 2),
    AnyModel("llama", _hugging_face("LlamaForCausalLM", "LlamaConfig", **_DECODER), tokens("input_ids"), 4),
    AnyModel(
        "t5",
        _hugging_face("T5ForConditionalGeneration", "T5Config", **_T5),
        tokens("input_ids", "decoder_input_ids"),
        4,
    ),
    AnyModel("vit", _hugging_face("ViTModel", "ViTConfig", **_VIT), pictures("pixel_values", 16), 2),
    AnyModel(
        "segformer",
        _hugging_face("SegformerModel", "SegformerConfig", **_SEGFORMER),
        pictures("pixel_values", 32),
        4,
    ),
    AnyModel("torch_encoder", Encoder, _padded, 4, True),
    AnyModel("torchvision_vit", _vision_transformer, pictures("x", 16), 2, True),
    AnyModel("torchvision_swin", _swin, pictures("x", 32), 4, True),
    AnyModel(
        "cosine",
        Cosine,
        lambda batch, rng: {"x": torch.randn(batch, 5, 6, generator=rng)},
        1,
        True,
    ),
)

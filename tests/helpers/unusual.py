"""Small modules, one for each operator that people use and that is more than a plain layer, with what can be pruned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from models import Case
from torch import Tensor, nn
from torch.nn import functional as F
from unusual_tensors import (
    Chosen,
    ComputedWeights,
    Contracted,
    Neighbours,
    Parameters,
    SliceWrite,
    TiedAutoencoder,
    WrittenZeros,
)

__all__ = ["UNUSUAL", "Unusual"]


@dataclass(frozen=True)
class Unusual(Case):
    """A case of the table of laws, and its groups: id -> number of units."""

    groups: Mapping[str, int]
    whole: frozenset[str] = frozenset()  # groups that the line leaves alone, though they could be cut


class Between(nn.Module):
    """A function of a convolution's 12 channels, read by another convolution."""

    def __init__(self, function: Callable[[Tensor], Tensor], channels: int = 12) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(channels, 4, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.function(self.first(x))))


def normed(norm: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), norm(), nn.ReLU(), nn.Conv2d(12, 4, 1))


def upsampling() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 6, 2, 2, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 5, 3, 2, 1, output_padding=1),
        nn.ReLU(),
        nn.Conv2d(5, 3, 1),
    )


def grouped_upsampling(groups: int, outputs: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(8, outputs, 3, 2, 1, groups=groups),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, 4, 1),
    )


def sequence() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 8, 3, padding="same"),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Conv1d(8, 8, 5, padding=2, groups=8),
        nn.Conv1d(8, 6, 3, stride=2, dilation=2),
        nn.PReLU(6),
        nn.ConvTranspose1d(6, 5, 4, 2),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    )


def volume() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 6, 3, padding=1),
        nn.BatchNorm3d(6),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(6, 5, (1, 3, 3), padding=(0, 1, 1)),
        nn.ReLU(),
        nn.ConvTranspose3d(5, 4, 2, 2),
        nn.ReLU(),
        nn.Conv3d(4, 2, 1),
    )


class Permuted(nn.Module):
    """As ConvNeXt: channels last, layer norm, an inverted bottleneck, a gain, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 20), nn.Linear(20, 8)
        self.gain, self.last = nn.Parameter(torch.full((8, 1, 1), 1e-6)), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.down(F.gelu(self.up(self.norm(x.permute(0, 2, 3, 1)))))
        return self.last(x + self.gain * y.permute(0, 3, 1, 2))


class NormedSequence(nn.Module):
    """Layer norm, RMS norm and one written by hand: what they normalise over stays."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 10), nn.Linear(10, 8)
        self.layer_norm, self.rms_norm = nn.LayerNorm(8), nn.RMSNorm(8)
        self.gain, self.d, self.e = nn.Parameter(torch.ones(8)), nn.Linear(8, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer_norm(self.a(x))
        x = self.rms_norm(self.c(torch.relu(self.b(x))))
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.gain
        return self.e(torch.relu(self.d(x)))


class Split(nn.Module):
    """Pieces whose sizes a list holds, processed apart and joined again."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [4, 8]
        self.first, self.inner, self.last = nn.Conv2d(3, 12, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(13, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x).split(self.sizes, dim=1)
        return self.last(torch.relu(torch.cat([b, self.inner(torch.relu(a))], 1)))


class Halves(nn.Module):
    """A gate from one half of the channels, cut at a number that an attribute holds."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 6
        self.first, self.last = nn.Conv2d(3, 12, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x[:, : self.hidden] * torch.sigmoid(x[:, self.hidden :]))


def shuffled(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)


class Excited(nn.Module):
    """Squeeze and excitation by linear layers, and an affine map made by another input branch (FiLM)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 4, 1)
        self.squeeze, self.excite, self.film = nn.Linear(12, 5), nn.Linear(5, 12), nn.Linear(3, 24)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3))))))
        y = y * gate.view(y.size(0), y.size(1), 1, 1).expand_as(y)
        scale, shift = self.film(x.mean((2, 3)))[:, :, None, None].chunk(2, 1)
        return self.last(y * scale * torch.sigmoid(shift))


class Twice(nn.Module):
    """One encoder for two parts of the input, inside of which units can go, and a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 6))
        self.again, self.last = nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.encoder(x[:, 0]), self.encoder(x[:, 1])], 1)
        return self.last(torch.relu(self.again(torch.relu(self.again(torch.relu(x))))))


class Gated(nn.Module):
    """Two feed-forwards with SwiGLU, one of them with both projections in one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 6), nn.LayerNorm(6)
        self.gate, self.up, self.down = nn.Linear(6, 16, bias=False), nn.Linear(6, 16), nn.Linear(16, 6)
        self.both, self.out, self.head = nn.Linear(6, 28), nn.Linear(14, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        gate, up = self.both(self.norm(x)).chunk(2, dim=-1)
        return self.head(x + self.out(F.silu(gate) * up))


class Switched(nn.Module):
    """Layers inside of autocast and gradient switches, which an export makes calls of sub-graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.c = (
            nn.Linear(6, 12),
            nn.BatchNorm1d(12),
            nn.Linear(12, 9),
            nn.Linear(9, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = torch.tanh(self.norm(self.a(x)))
            with torch.autocast("cpu", enabled=False):
                x = torch.tanh(self.b(x.float()))
        return self.c(x)


class Masked(nn.Module):
    """Attention over heads folded into the batch, with a mask from the inputs that is copied for each head."""

    def __init__(self, copied: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(a, b) for a, b in ((6, 16), (6, 16), (6, 16), (16, 3)))
        self.copied = copied

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        mask = torch.where(x[:, :, 0] > 1, -9.0, 0.0).view(n, 1, 1, t)
        q, k, v = (
            p(x).view(n, t, 4, 4).transpose(1, 2).reshape(4 * n, t, 4) for p in (self.q, self.k, self.v)
        )
        weights = (q @ k.transpose(1, 2) / 2 + self.copied(mask)).softmax(-1)
        return self.out((weights @ v).view(n, 4, t, 4).transpose(1, 2).reshape(n, t, 16))


UNUSUAL = (
    Unusual("conv_transpose", upsampling, (3, 6, 6), {"0": 8, "2": 6, "5": 5}),
    Unusual("conv_transpose_few_groups", grouped_upsampling(2, 12), (3, 6, 6), {"0": 4, "2": 6}),
    Unusual("conv_transpose_many_groups", grouped_upsampling(4, 12), (3, 6, 6), {"0": 4}),
    Unusual("conv_transpose_depthwise", grouped_upsampling(8, 16), (3, 6, 6), {"0": 8}),
    Unusual("conv1d", sequence, (3, 24), {"0": 8, "4": 6, "6": 5}),
    Unusual("conv3d", volume, (2, 4, 6, 6), {"0": 6, "4": 5, "6": 4}),
    Unusual("group_norm", normed(lambda: nn.GroupNorm(4, 12)), (3, 6, 6), {"0": 4}),
    Unusual(
        "instance_norm",
        normed(lambda: nn.InstanceNorm2d(12, affine=True, track_running_stats=True)),
        (3, 6, 6),
        {"0": 12},
    ),
    Unusual("instance_statistics", normed(lambda: nn.InstanceNorm2d(12, affine=True)), (3, 6, 6), {"0": 12}),
    Unusual("norms", NormedSequence, (5, 6), {"b": 10, "d": 9}),
    Unusual("permute", Permuted, (3, 8, 8), {"up": 20}),
    Unusual("split", Split, (3, 6, 6), {"first": 4, "first#2": 8, "inner": 5}),
    Unusual("slices", Halves, (3, 6, 6), {"first": 6}),
    Unusual("slice_write", SliceWrite, (6,), {"a": 10, "b": 7}),
    Unusual("written_zeros", WrittenZeros, (6,), {"a": 10, "b": 9, "b#2": 4}, whole=frozenset({"b#2"})),
    Unusual("chosen", Chosen, (5, 6), {"a": 10, "b": 12}, whole=frozenset({"a"})),
    Unusual("neighbours", Neighbours, (5, 6), {"a": 8, "b": 9, "c": 10}),
    Unusual(
        "contracted",
        Contracted,
        (6,),
        {"a": 8, "first": 7, "second": 6, "b": 9},
        whole=frozenset({"a", "first", "second"}),
    ),
    Unusual("channel_shuffle", lambda: Between(shuffled), (3, 6, 6), {"first": 4}),
    Unusual(
        "pixel_shuffle",
        lambda: Between(lambda x: F.pixel_shuffle(F.channel_shuffle(x, 1), 2), 3),
        (3, 6, 6),
        {"first": 3},
    ),
    Unusual("squeeze_excitation", Excited, (3, 6, 6), {"first": 12, "squeeze": 5}),
    Unusual("parameters", Parameters, (5, 6), {"w1": 10, "w2": 9, "w3": 8}),
    Unusual(
        "computed_weights",
        ComputedWeights,
        (6,),
        {"first": 8, "w1": 5, "w2": 4, "w3": 7, "hidden": 9},
        whole=frozenset({"first", "w1", "w2", "w3"}),
    ),
    Unusual("called_twice", Twice, (2, 4), {"encoder.0": 9, "encoder.2": 6}),
    Unusual("tied_transpose", TiedAutoencoder, (6,), {"encode": 10, "inner": 8}),
    *(
        Unusual(f"mask_{name}", lambda copied=copied: Masked(copied), (5, 6), {"q": 4})
        for name, copied in (
            ("expanded", lambda mask: mask.expand(-1, 4, -1, -1).reshape(-1, 1, mask.shape[-1])),
            ("repeated", lambda mask: mask.repeat(1, 4, 1, 1).flatten(0, 1)),
            ("interleaved", lambda mask: mask[:, 0].repeat_interleave(4, 0)),
        )
    ),
    Unusual("switched", Switched, (6,), {"a": 12, "b": 9}),
    Unusual("swiglu", Gated, (5, 6), {"gate": 16, "both": 14}),
)

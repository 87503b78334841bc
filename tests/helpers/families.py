"""Small networks of families that no library of image models has, each with what can be pruned in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from models import randomise
from picture_families import Denoiser, Detector, FrozenBatchNorms, HighResolution, Modulated, Tracker, conv
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["FAMILIES", "Family"]

Draw = Callable[[int, torch.Generator], tuple[Any, ...]]


@dataclass(frozen=True)
class Family:
    """A network, the inputs of a batch, and the groups that a run prunes: id -> number of units.

    `batch_dims` are those that a trace finds. `fold`: its weights are computed, and folded before it is pruned, as its
    users would.
    """

    name: str
    make: Callable[[], nn.Module]
    draw: Draw
    groups: Mapping[str, int]
    batch_dims: tuple[int | None, ...] = (0,)
    fold: bool = False

    def model(self) -> nn.Module:
        """Return the network with random values everywhere, in eval mode."""
        torch.manual_seed(0)
        model = randomise(self.make(), 0).eval()
        if self.fold:
            from secateur.surgery.fold import fold_weights

            return fold_weights(model, *self.inputs(2)).eval()
        return model

    def inputs(self, batch: int, seed: int = 0) -> tuple[Any, ...]:
        """Return a batch of positional inputs."""
        return self.draw(batch, torch.Generator().manual_seed(seed + 1))


def normal(*shape: int) -> Draw:
    return lambda batch, rng: (torch.randn(batch, *shape, generator=rng),)


class Vocoder(nn.Module):
    """HiFi-GAN: transposed convolutions with weight norm, each behind it a mean of dilated residual blocks."""

    def __init__(
        self, norm: Callable[[nn.Module], nn.Module] = nn.utils.parametrizations.weight_norm
    ) -> None:
        super().__init__()
        self.pre, self.post = norm(nn.Conv1d(5, 12, 7, padding=3)), norm(nn.Conv1d(6, 1, 7, padding=3))
        self.ups = nn.ModuleList(
            [norm(nn.ConvTranspose1d(12, 8, 4, 2, 1)), norm(nn.ConvTranspose1d(8, 6, 4, 2, 1))]
        )
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                norm(nn.Conv1d(w, w, k, padding=k // 2 * d, dilation=d)) for k, d in ((3, 1), (3, 3))
            )
            for w in (8, 6)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.pre(x)
        for up, blocks in zip(self.ups, self.blocks):
            x = up(F.leaky_relu(x, 0.1))
            x = sum(x + block(F.leaky_relu(x, 0.1)) for block in blocks) / len(blocks)
        return torch.tanh(self.post(F.leaky_relu(x)))


# ----------------------------------------------------------------------------------------- speech, faces, sequences


class Conformer(nn.Module):
    """Half a feed-forward, attention, a gated depthwise convolution over time, half a feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.norms = nn.Linear(5, 8), nn.ModuleList(nn.LayerNorm(8) for _ in range(5))
        self.ff1, self.ff2 = (nn.Sequential(nn.Linear(8, 14), nn.SiLU(), nn.Linear(14, 8)) for _ in range(2))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.expand, self.depthwise = nn.Conv1d(8, 20, 1), nn.Conv1d(10, 10, 3, padding=1, groups=10)
        self.bn, self.project, self.head = nn.BatchNorm1d(10), nn.Conv1d(10, 8, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.front(x)
        x = x + 0.5 * self.ff1(self.norms[0](x))
        y = self.norms[1](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        y = F.glu(self.expand(self.norms[2](x).transpose(1, 2)), dim=1)
        x = x + self.project(F.silu(self.bn(self.depthwise(y)))).transpose(1, 2)
        return self.head(self.norms[4](x + 0.5 * self.ff2(self.norms[3](x))))


class Reader(nn.Module):
    """CRNN: columns of a picture as a sequence for a recurrent layer, which stays whole."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(conv(1, 8), nn.MaxPool2d(2), conv(8, 10), nn.MaxPool2d((2, 1)))
        self.rnn = nn.LSTM(20, 6, bidirectional=True, batch_first=True)
        self.a, self.b = nn.Linear(12, 18), nn.Linear(18, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cnn(x).flatten(1, 2).transpose(1, 2)
        return self.b(torch.relu(self.a(self.rnn(x)[0])))


class Faces(nn.Module):
    """ArcFace: cosines between normalised features and normalised class centres."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(conv(3, 8, act=nn.PReLU), conv(8, 10, 3, 2, act=nn.PReLU))
        self.feature, self.centres = nn.Linear(10, 6), nn.Parameter(torch.randn(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.feature(self.backbone(x).mean((2, 3)))
        return 16 * F.linear(F.normalize(x), F.normalize(self.centres))


class Points(nn.Module):
    """PointNet: a transform of the points that the points decide, a perceptron for each, the largest of all."""

    def __init__(self) -> None:
        super().__init__()
        self.t, self.fc = nn.Sequential(nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8), nn.ReLU()), nn.Linear(8, 9)
        self.a = nn.Sequential(nn.Conv1d(3, 10, 1), nn.BatchNorm1d(10), nn.ReLU(), nn.Conv1d(10, 12, 1))
        self.b = nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4))

    def forward(self, x: Tensor) -> Tensor:
        turn = self.fc(self.t(x.transpose(1, 2)).amax(2)).view(-1, 3, 3) + torch.eye(3)
        return self.b(self.a(torch.bmm(x, turn).transpose(1, 2)).amax(2))


class SequenceFirst(nn.Module):
    """torch's own encoder layer as it comes, time first, with a float mask (time, time)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.TransformerEncoderLayer(8, 2, 14, dropout=0.0), nn.Linear(8, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.out(self.layer(x, src_mask=mask))


class MaskedAutoencoder(nn.Module):
    """MAE: only what is seen goes through the encoder; one learned token stands for all else."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.token = nn.Linear(6, 8), nn.Parameter(torch.randn(8))
        self.a, self.b, self.c, self.d = (
            nn.Linear(8, 14),
            nn.Linear(14, 8),
            nn.Linear(8, 10),
            nn.Linear(10, 6),
        )

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        y = self.embed(x)[seen]
        y = y + self.b(torch.relu(self.a(y)))
        full = self.token.expand(*x.shape[:2], -1).clone()
        full[seen] = y
        return self.d(torch.relu(self.c(full)))


# ---------------------------------------------------------------------------------------- graphs, tables, experts


class GraphConvolution(nn.Module):
    """A GCN with its edges as a list, degrees by scatter_add, and a mean over nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.up, self.down = (
            nn.Linear(6, 10),
            nn.Linear(10, 8),
            nn.Linear(8, 12),
            nn.Linear(12, 3),
        )

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges[0], edges[1]
        ones = x.new_ones(target.shape[0])
        degree = x.new_ones(x.shape[0]).scatter_add(0, target, ones)
        scale = (degree[source] * degree[target]).rsqrt()[:, None]
        for layer in (self.a, self.b):
            x = layer(x)
            x = torch.tanh(x + torch.zeros_like(x).index_add(0, target, x[source] * scale))
        return self.down(torch.relu(self.up(x)))


class Table(nn.Module):
    """An FT-Transformer: every column a token, those of categories from tables of their own, and one for the class."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(n, 8) for n in (5, 3))
        self.weight, self.bias, self.cls = (
            nn.Parameter(torch.randn(*s)) for s in ((4, 8), (4, 8), (1, 1, 8))
        )
        self.norm, self.out = nn.LayerNorm(8), nn.Linear(8, 2)
        self.qkv, self.o, self.a, self.b = (
            nn.Linear(8, 24),
            nn.Linear(8, 8),
            nn.Linear(8, 24),
            nn.Linear(12, 8),
        )

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        tokens = [t(categories[:, i])[:, None] for i, t in enumerate(self.tables)]
        x = numbers[..., None] * self.weight + self.bias
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x, *tokens], 1)
        q, k, v = self.qkv(self.norm(x)).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        gate, y = self.a(self.norm(x)).chunk(2, -1)
        x = x + self.b(F.relu(gate) * y)  # ReGLU
        return self.out(x[:, 0])


class Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


class Experts(nn.Module):
    """A mixture of experts: all of them weighted, or each on the tokens that are routed to it."""

    def __init__(self, dense: bool) -> None:
        super().__init__()
        self.embed, self.router, self.out = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 4)
        self.experts, self.dense = nn.ModuleList(Expert() for _ in range(3)), dense

    def forward(self, x: Tensor) -> Tensor:
        shape, x = x.shape, self.embed(x).flatten(0, 1)
        weights = self.router(x).softmax(-1)
        if self.dense:
            y = torch.stack([e(x) for e in self.experts], 1)
            return self.out((x + torch.einsum("te,tec->tc", weights, y)).view(*shape[:2], -1))
        top, chosen = weights.topk(2, -1)
        y = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            token, place = torch.where(chosen == i)
            y = y.index_add(0, token, expert(x[token]) * top[token, place, None])
        return self.out((x + y).view(*shape[:2], -1))


def graph(batch: int, rng: torch.Generator) -> tuple[Any, ...]:
    nodes = 5 * batch
    return torch.randn(nodes, 6, generator=rng), torch.randint(0, nodes, (2, 4 * nodes), generator=rng)


def sequence_first(batch: int, rng: torch.Generator) -> tuple[Any, ...]:
    return torch.randn(7, batch, 8, generator=rng), nn.Transformer.generate_square_subsequent_mask(7)


def template(batch: int, rng: torch.Generator) -> tuple[Any, ...]:
    return tuple(torch.randn(batch, 3, s, s, generator=rng) for s in (8, 16))


def diffusion(batch: int, rng: torch.Generator) -> tuple[Any, ...]:
    return tuple(torch.randn(batch, *s, generator=rng) for s in ((3, 8, 8), (4,), (5, 6)))


def table(batch: int, rng: torch.Generator) -> tuple[Any, ...]:
    return torch.randn(batch, 4, generator=rng), torch.randint(0, 3, (batch, 2), generator=rng)


def half_seen(batch: int, rng: torch.Generator) -> tuple[Any, ...]:
    return torch.randn(batch, 6, 6, generator=rng), torch.rand(batch, 6, generator=rng) < 0.5


FAMILIES: tuple[Family, ...] = (
    Family(
        "detector",
        Detector,
        normal(3, 16, 16),
        {
            "stem.0": 8,
            "stage.first.0": 4,
            "stage.a.0": 4,
            "stage.last.0": 8,
            "down.0": 12,
            "pool.0": 12,
            "join.0": 8,
            "box.0.0.0": 8,
            "cls.0.0.0": 6,
            "box.1.0.0": 8,
            "cls.1.0.0": 6,
        },
    ),
    Family("high_resolution", HighResolution, normal(3, 8, 8), {"fine.0.0": 8, "coarse.0.0": 12}),
    Family("frozen_batch_norms", FrozenBatchNorms, normal(3, 8, 8), {"a": 8, "b": 10}),
    Family("tracker", Tracker, template, {"backbone.0": 10, "backbone.2": 6, "head.0": 12}, (0, 0)),
    Family("vocoder", Vocoder, normal(5, 6), {"pre": 12}, fold=True),
    Family("denoiser", Denoiser, diffusion, {"stem": 8, "step.0": 16, "a": 4, "q": 2, "up": 8}, (0, 0, 0)),
    Family("modulated", Modulated, normal(8), {"map.0": 20, "map.2": 12, "a": 10}),
    Family("conformer", Conformer, normal(9, 5), {"ff1.0": 14, "attention": 2, "expand": 10, "ff2.0": 14}),
    Family("reader", Reader, normal(1, 8, 12), {"cnn.0.0": 8, "a": 18}),
    Family("faces", Faces, normal(3, 8, 8), {"backbone.0.0": 8, "backbone.1.0": 10}),
    Family("points", Points, normal(11, 3), {"t.0": 8, "a.0": 10, "a.3": 12, "b.0": 9}),
    Family(
        "sequence_first",
        SequenceFirst,
        sequence_first,
        {"layer.self_attn": 2, "layer.linear1": 14},
        (1, None),
    ),
    Family("masked_autoencoder", MaskedAutoencoder, half_seen, {"a": 14, "c": 10}, (0, 0)),
    Family("graph", GraphConvolution, graph, {"a": 10, "b": 8, "up": 12}, (None, None)),
    Family("table", Table, table, {"qkv": 2, "a": 12}, (0, 0)),
    Family(
        "experts",
        lambda: Experts(True),
        normal(5, 6),
        {"experts.0.up": 12, "experts.1.up": 12, "experts.2.up": 12},
    ),
    Family(
        "routed_experts",
        lambda: Experts(False),
        normal(5, 6),
        {"experts.0.up": 12, "experts.1.up": 12, "experts.2.up": 12},
    ),
)

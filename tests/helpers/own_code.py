"""Modules whose code repeats sizes, one for each way in which people write that; all have the same layers and values.

``x`` is (batch, time, 6); four heads of four, and a hidden layer of eight.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["FORMS", "Attention", "Net"]

HEADS = 4
SIZES = {"dim": 4}


class Attention(nn.Module):
    """Its layers; forms of its code are derived classes."""

    heads = 4

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (
            nn.Linear(6, 16),
            nn.Linear(6, 16),
            nn.Linear(6, 16),
            nn.Linear(16, 6),
        )
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)
        self.num_heads, self.dim, self.shape = 4, 4, (4, 4)
        self.last: Any = None

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ((q @ k.transpose(-1, -2) / 2).softmax(-1) @ v).transpose(1, 2)

    def mlp(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)))


class Literals(Attention):
    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (p(x).view(n, t, 4, 4).transpose(1, 2) for p in (self.q, self.k, self.v))
        self.last = self.mix(q, k, v)
        return self.mlp(x + self.o(self.last.reshape(n, t, 16)))


class ClassAttribute(Attention):
    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (p(x).reshape(n, t, self.heads, -1).transpose(1, 2) for p in (self.q, self.k, self.v))
        return self.mlp(x + self.o(self.mix(q, k, v).flatten(2)))


class ModuleConstant(Attention):
    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (p(x).view(n, t, HEADS, SIZES["dim"]).transpose(1, 2) for p in (self.q, self.k, self.v))
        return self.mlp(x + self.o(self.mix(q, k, v).reshape(n, t, HEADS * SIZES["dim"])))


class Arithmetic(Attention):
    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        width = self.q(x).shape[-1]
        q, k, v = (p(x).view(n, t, self.heads, width // 4).transpose(1, 2) for p in (self.q, self.k, self.v))
        return self.mlp(x + self.o(self.mix(q, k, v).reshape(n, t, 2 * 8)))


class FoldedHeads(Attention):
    """Heads go into the batch: a size that is a product with the batch."""

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        both = n * self.num_heads
        q, k, v = (
            p(x).view(n, t, 4, 4).transpose(1, 2).reshape(both, t, 4) for p in (self.q, self.k, self.v)
        )
        y = (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
        return self.mlp(x + self.o(y.view(n, 4, t, 4).transpose(1, 2).reshape(n, t, 16)))


class Starred(Attention):
    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], 4, 4)
        q, k, v = (p(x).view(shape).transpose(1, 2) for p in (self.q, self.k, self.v))
        return self.mlp(x + self.o(self.mix(q, k, v).reshape(x.shape[:-1] + (16,))))  # noqa: RUF005


class TupleAttribute(Attention):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, self.shape).transpose(1, 2) for p in (self.q, self.k, self.v))
        return self.mlp(x + self.o(self.mix(q, k, v).flatten(2)))


class Split(Attention):
    """Cuts the projections by sizes and by bounds."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = torch.cat([self.q(x), self.k(x), self.v(x)], -1).split([16, 16, 16], dim=-1)
        everything = torch.cat([q, k], -1)
        q, k = everything[..., :16], everything[:, :, 16:32]
        q, k, v = (y.unflatten(-1, (4, 4)).transpose(1, 2) for y in (q, k, v))
        return self.mlp(x + self.o(self.mix(q, k, v).flatten(2)))


class Methods(Attention):
    """Spread over methods: one that calls another, a static one, a property, one with arguments by name."""

    @property
    def width(self) -> int:
        return 4 * self.dim

    @staticmethod
    def cut(x: Tensor, heads: int, dim: int = 4) -> Tensor:
        n, t, _ = x.shape
        return x.view(n, t, heads, dim).transpose(1, 2)

    def together(self, y: Tensor) -> Tensor:
        return y.reshape(*y.shape[:2], self.width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.cut(p(x), heads=4) for p in (self.q, self.k, self.v))
        return self.mlp(x + self.o(self.together(self.mix(q, k, v))))


def cut(x: Tensor, heads: int) -> Tensor:
    n, t, c = x.shape
    return x.reshape(n, t, heads, c // heads).transpose(1, 2)


def _joined(x: Tensor, width: int) -> Tensor:
    return x.reshape(x.shape[0], x.shape[1], width)


class Functions(Attention):
    """Calls functions of its file, by name and by a name of a module."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (cut(p(x), 4) for p in (self.q, self.k, self.v))
        return self.mlp(x + self.o(_joined(self.mix(q, k, v), 16)))


class Above(Literals):
    """What repeats sizes is the forward of the class behind."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


def twice(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(function)
    def both(self: nn.Module, x: Tensor) -> Tensor:
        return function(self, x) + 0 * function(self, x)

    return both


class Decorated(Attention):
    @twice
    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (p(x).view(n, t, 4, 4).transpose(1, 2) for p in (self.q, self.k, self.v))
        return self.mlp(x + self.o(self.mix(q, k, v).reshape(n, t, 16)))


def _closed(heads: int) -> type[Attention]:
    class Closure(Attention):
        """Reads sizes from the function that the class is made in."""

        def forward(self, x: Tensor) -> Tensor:
            n, t, _ = x.shape
            q, k, v = (p(x).view(n, t, heads, 16 // heads).transpose(1, 2) for p in (self.q, self.k, self.v))
            return self.mlp(x + self.o(self.mix(q, k, v).reshape(n, t, 16)))

    return Closure


class Scaled(Attention):
    """Asks a layer's output for its width, for a scale: that of the dense one."""

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (p(x).view(n, t, 4, 4).transpose(1, 2) for p in (self.q, self.k, self.v))
        y = x + self.o(self.mix(q, k, v).reshape(n, t, 16))
        hidden = F.relu(self.up(y))
        scale = hidden.shape[-1] ** -0.5
        return self.down(hidden * scale)


class Private(Attention):
    """Names that belong to the class alone, and a size in a branch that the example does not take."""

    def __halves(self, y: Tensor, often: bool) -> Tensor:
        if often:
            return y.view(y.shape[0], -1, self.num_heads, 4)
        return y.view(y.shape[0], -1, self.num_heads, 16 // 4)

    def forward(self, x: Tensor, often: bool = False) -> Tensor:
        q, k, v = (self.__halves(p(x), often).transpose(1, 2) for p in (self.q, self.k, self.v))
        return self.mlp(x + self.o(self.mix(q, k, v).reshape(x.shape[0], -1, 16)))


class Net(nn.Module):
    """A linear layer, the module, a linear layer."""

    def __init__(self, inner: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.inner, self.last = inner(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(x + self.inner(x))
        return y


FORMS: tuple[type[Attention], ...] = (
    Literals, ClassAttribute, ModuleConstant, Arithmetic, FoldedHeads, Starred, TupleAttribute, Split, Methods,
    Functions, Above, Decorated, _closed(4), Scaled, Private,
)  # fmt: skip


class Spatial(nn.Module):
    """Attention over the places of a picture, of any size, behind a convolution; its values may be narrower."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.a, self.o = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 1)
        self.q, self.k, self.v = (nn.Conv2d(width, width, 1) for _ in range(3))
        self.last = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        n, c, h, w = x.shape
        q, k, v = (p(x).reshape(n, c, h * w) for p in (self.q, self.k, self.v))
        a = (q.transpose(1, 2) @ k / c**0.5).softmax(-1)
        y: Tensor = self.last(x + self.o((v @ a.transpose(1, 2)).reshape(n, c, h, w)))
        return y


class Hidden(Literals):
    """The same code, of which no source can be had."""

    exec(compile(inspect.getsource(Literals.forward).lstrip(), "hidden", "exec"))


REGISTER: list[type] = []


class Registered(Literals):
    """Its class keeps a register of what is derived from it."""

    def __init_subclass__(cls) -> None:
        REGISTER.append(cls)


class TorchAttention(nn.Module):
    """Torch's own attention, in an encoder layer and alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(6, 3, 8, batch_first=True)
        self.alone = nn.MultiheadAttention(6, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        y: Tensor = x + self.alone(x, x, x, need_weights=False)[0]
        return y


class Table(nn.Module):
    """A part whose method is called past its forward, and which holds the shape of what it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.randn(25, 4))
        self.shape = (5, 5, 4)

    def bias(self) -> Tensor:
        return self.values.view(self.shape).permute(2, 0, 1)


class Biased(Attention):
    """Asks a part for a bias of its own, for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (p(x).view(n, t, 4, 4).transpose(1, 2) for p in (self.q, self.k, self.v))
        w = (q @ k.transpose(-1, -2) / 2 + self.table.bias()).softmax(-1)
        return self.mlp(x + self.o((w @ v).transpose(1, 2).reshape(n, t, 16)))

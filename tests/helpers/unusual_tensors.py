"""Modules that write into tensors, choose by masks and indices, or use parameters without a layer around them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SliceWrite(nn.Module):
    """Writes into slices of an activation, by assignment and in place."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = 4
        self.a, self.b, self.c = nn.Linear(6, 10), nn.Linear(10, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).clone()
        x[:, : self.cut] = torch.relu(x[:, : self.cut])
        x[:, self.cut :].tanh_()
        return self.c(torch.relu(self.b(x)))


class WrittenZeros(nn.Module):
    """Halves that change places by writes into a tensor of zeros, a part of which stays zero."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = 5
        self.a, self.b, self.c = nn.Linear(6, 10), nn.Linear(14, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        held = x.new_zeros(x.shape[0], 14)
        held[:, : self.cut] = x[:, self.cut :]
        held[:, self.cut : 10] = x[:, : self.cut]
        return self.c(torch.tanh(self.b(held + 1)))


class Chosen(nn.Module):
    """Rows that a mask chooses from a sequence go through a layer and are added back where they came from."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (
            nn.Linear(6, 10),
            nn.Linear(10, 12),
            nn.Linear(12, 10),
            nn.Linear(10, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        mask = x[..., 0] > 0
        x = torch.tanh(self.a(x))
        batch, place = torch.nonzero(mask, as_tuple=True)
        y = torch.zeros_like(x)
        y[batch, place] = self.c(torch.relu(self.b(x[mask])))
        x = torch.relu(x * 2 + y)
        often = x.repeat_interleave(mask.sum(1) + 1, 0)  # as often as the mask has entries
        return self.d(x + often.mean(0))


class Neighbours(nn.Module):
    """Sums over neighbours in every way that torch has: rows by number, by an index as wide as the rows, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(6, 8), nn.Linear(8, 9), nn.Linear(9, 10), nn.Linear(10, 3)
        self.register_buffer("edges", torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]]))

    def forward(self, x: Tensor) -> Tensor:
        source, target = self.edges[0], self.edges[1]
        x = torch.tanh(self.a(x))
        x = x + torch.zeros_like(x).index_add(1, target, x.index_select(1, source))
        x = torch.tanh(self.b(x))
        wide = target[None, :, None].expand(x.shape[0], -1, x.shape[2])
        x = x + x.new_zeros(x.shape).scatter_add(1, wide, x[:, source])
        x = torch.tanh(self.c(x))
        x = x.scatter_reduce(
            1, target[None, :, None].expand(x.shape[0], -1, x.shape[2]), x[:, source], "amax"
        )
        return self.d(torch.gather(x, 1, torch.arange(5)[None, :, None].expand(x.shape[0], -1, x.shape[2])))


class Contracted(nn.Module):
    """Products that are written as tensordot and inner: cut right, never ranked, and the layers around them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(6, 9), nn.Linear(9, 3)
        self.first, self.second = nn.Parameter(torch.randn(8, 7) * 0.4), nn.Parameter(torch.randn(6, 7) * 0.4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tensordot(torch.relu(self.a(x)), self.first, dims=1)
        x = torch.inner(torch.tanh(x), self.second)
        return self.c(torch.relu(self.b(x)))


class Parameters(nn.Module):
    """Parameters used directly: as matrices on either side of a transpose, biases, gains and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = (
            nn.Parameter(torch.randn(shape) * 0.3) for shape in ((10, 6), (10, 9), (9, 8))
        )
        self.b1, self.b3, self.gain = (nn.Parameter(torch.zeros(n)) for n in (10, 8, 9))
        self.position = nn.Parameter(torch.zeros(1, 5, 10))
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(F.linear(x, self.w1, self.b1) + self.position)
        x = torch.tanh(x @ self.w2) * self.gain
        x = torch.addmm(self.b3, x.flatten(0, 1), self.w3).unflatten(0, (-1, 5))
        return self.last(torch.relu(x))


class ComputedWeights(nn.Module):
    """Layers whose weights are joined from parameters, or multiplied in an equation: cut right, never ranked."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.w1, self.w2, self.w3 = (
            nn.Parameter(torch.randn(shape) * 0.3) for shape in ((5, 8), (4, 8), (9, 7))
        )
        self.hidden, self.last = nn.Linear(7, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(F.linear(torch.relu(self.first(x)), torch.cat([self.w1, self.w2])))
        x = torch.einsum("bi,io->bo", x, self.w3)
        return self.last(torch.relu(self.hidden(torch.tanh(x))))


class TiedAutoencoder(nn.Module):
    """The decoder is the transpose of the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.inner, self.outer = nn.Linear(6, 10), nn.Linear(10, 8), nn.Linear(8, 10)
        self.bias = nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.outer(torch.relu(self.inner(torch.tanh(self.encode(x)))))
        return F.linear(torch.relu(x), self.encode.weight.t(), self.bias)

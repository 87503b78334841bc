"""Where a layer's output goes: through a BatchNorm's affine map, perhaps into a residual sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.graph import Graph, Layer, Node, Ref

__all__ = ["Affine", "Outlet", "affine", "outlet"]

_PASSING = frozenset({"dropout", "alias", "contiguous", "detach", "clone", "to"})
_SQUARES = frozenset({"pow", "square"})


@dataclass(frozen=True)
class Outlet:
    """What stands between a layer and the point where its output counts."""

    end: str  # the node whose value counts: the join, else the BatchNorm, else the layer itself
    batch_norm: Node | None = None
    join: str | None = None  # the node that adds it to another value of the same shape
    operand: int = 0  # which argument of the join is the other value
    rectified: bool = False  # nothing but a ReLU reads the end: what is below zero does not count
    normalised: bool = (
        False  # each position's channels are divided by their root mean square, or deviation, next
    )
    own: Outlet | None = None  # with a join: the same without it

    def alone(self) -> Outlet:
        """Return the outlet without its join, where another branch repairs the sum."""
        return self.own or self


@dataclass(frozen=True)
class Affine:
    """``y = scale * x + shift`` by channel, float32 (channels,)."""

    scale: Tensor
    shift: Tensor


def outlet(graph: Graph, layer: Layer, *, with_adapters: bool = False) -> Outlet:
    """Follow the only user of a layer's output through BatchNorm and dropout to the sum that it enters.

    The sum counts only if the other value has the same shape, so that what the layer should make of it can be
    said: the sum minus the other value. `with_adapters`: a layer and the low-rank adapters beside it are one layer,
    whose output is their sum.
    """
    sums = {adapter.join for adapter in graph.adapters} if with_adapters else set[str]()
    batch_norm: Node | None = None
    end = name = layer.node
    while True:
        users = graph.users(name)
        own = Outlet(end, batch_norm, rectified=_rectified(graph, end), normalised=_normalised(graph, end))
        if len(users) != 1:
            return own
        user = users[0]
        if user.op == "batch_norm" and batch_norm is None and user.args[0] == Ref(name):
            batch_norm, end = user, user.name
        elif user.name in sums:
            end = user.name
        elif user.op in {"add", "iadd"}:
            return _join(graph, own, user, name)
        elif user.op not in _PASSING:
            return own
        name = user.name


def _join(graph: Graph, own: Outlet, user: Node, name: str) -> Outlet:
    operands = [a for a in user.args[:2] if isinstance(a, Ref)]
    if len(operands) != 2 or user.kwargs.get("alpha", 1) != 1 or operands[0] == operands[1]:
        return own
    if len({graph.program.node(a.name).shape for a in operands}) != 1:
        return own
    other = 1 if user.args[0] == Ref(name) else 0
    end = user.name
    rectified, normalised = _rectified(graph, end), _normalised(graph, end)
    return Outlet(end, own.batch_norm, end, other, rectified, normalised, own)


def _rectified(graph: Graph, name: str) -> bool:
    users = graph.users(name)
    return bool(users) and all(user.op == "relu" for user in users)


def _normalised(graph: Graph, name: str) -> bool:
    """Whether a LayerNorm or an RMSNorm, as one call or written out, reads a value over its last dimension."""
    for user in graph.users(name):
        if user.op in {"layer_norm", "rms_norm"}:
            if len(user.args[1]) == 1:
                return True
        elif user.op in _PASSING:
            if _normalised(graph, user.name):
                return True
        elif user.op in _SQUARES or (user.op == "mul" and user.args[0] == user.args[1]):
            means = [reader for reader in graph.users(user.name) if reader.op == "mean"]
            if any(len(m.args) > 1 and m.args[1] in ((-1,), -1) for m in means):
                return True
    return False


def affine(batch_norm: Node | None, graph: Graph, tensors: Mapping[str, Tensor]) -> Affine | None:
    """Return the map of a BatchNorm in evaluation mode, ``gamma / sqrt(var + eps)`` and its shift, or None."""
    if batch_norm is None:
        return None
    names = [_parameter(graph, a) for a in batch_norm.args[1:5]]
    gamma, beta, mean, variance = (tensors[n] if n is not None else None for n in names)
    if mean is None or variance is None:
        return None
    scale = torch.rsqrt(variance + float(batch_norm.args[7]))
    if gamma is not None:
        scale = scale * gamma
    shift = -mean * scale
    return Affine(scale, shift if beta is None else shift + beta)


def _parameter(graph: Graph, argument: object) -> str | None:
    if not isinstance(argument, Ref):
        return None
    names = graph.program.parameters.get(argument.name)
    return names[0] if names else None


def running_mean(batch_norm: Node, graph: Graph) -> str | None:
    """Return the canonical name of a BatchNorm's running mean."""
    return _parameter(graph, batch_norm.args[3])

"""The pruned network in its small shapes: the traced calls, resized, on what is left of every tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from secateur.graph import Graph, Kept
from secateur.ground.errors import SurgeryError
from secateur.ground.tensors import floating
from secateur.statistics import Forward
from secateur.surgery.prediction import predict

from .jobs import masked

__all__ = ["Shrunk"]


class Shrunk:
    """Which part of every tensor is left, and how calls run on these parts: as fast as the smaller model.

    Where that cannot be (a call's sizes follow from something else), all tensors keep their full shapes, masked.
    """

    def __init__(self, graph: Graph, kept: Kept, tensors: Mapping[str, Tensor], sample: list[Any]) -> None:
        """Try the small shapes on some flat inputs, on which they have to give what the masked network gives."""
        self._graph, self._kept = graph, kept
        self._left: dict[str, list[Tensor | None]] = {}
        self._arguments: dict[str, tuple[Any, ...]] = {}
        try:
            self._resize(tensors)
            found = floating(self.forward(self.small(tensors)).run(sample, {}, {}, whole=True))
        except (SurgeryError, RuntimeError, IndexError, ValueError):
            self._left, self._arguments = {}, {}
            return
        expected = floating(
            Forward(graph.program, masked(graph, tensors, kept)).run(sample, {}, {}, whole=True)
        )
        if not all(map(_close, expected, found)):
            self._left, self._arguments = {}, {}

    @property
    def is_small(self) -> bool:
        """Whether tensors are smaller than those of the dense network."""
        return bool(self._left)

    def small(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what is left of each tensor."""
        result = dict(tensors)
        for name, dims in self._left.items():
            for dim, index in enumerate(dims):
                if index is not None and name in result:
                    result[name] = result[name].index_select(dim, index.to(result[name].device))
        return result

    def full(self, small: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return all `tensors`, in the full shapes, with those of `small` in place of what is left of theirs."""
        result = dict(tensors)
        for name, value in small.items():
            for dim in reversed(range(value.ndim)):
                index = self._left.get(name, [None] * value.ndim)[dim]
                if index is not None:
                    shape = list(value.shape)
                    shape[dim] = tensors[name].shape[dim]
                    value = value.new_zeros(shape).index_copy(dim, index.to(value.device), value)
            result[name] = value
        return masked(self._graph, result, self._kept)

    def forward(self, small: Mapping[str, Tensor], *, gradients: bool = False) -> Forward:
        """Return the network with such tensors, to be run."""
        tensors = small if self.is_small else masked(self._graph, small, self._kept)
        return Forward(self._graph.program, tensors, gradients=gradients, arguments=self._arguments)

    def _resize(self, tensors: Mapping[str, Tensor]) -> None:
        prediction = predict(self._graph, self._kept)
        for name, value in tensors.items():
            if tuple(value.shape) != tuple(prediction.parameters.get(name, value.shape)):
                self._left[name] = [self._survivors(name, dim, n) for dim, n in enumerate(value.shape)]
        for node in self._graph.program.nodes:
            if node.op not in ("placeholder", "output"):
                self._arguments[node.name] = prediction.arguments(node)

    def _survivors(self, name: str, dim: int, size: int) -> Tensor | None:
        stays = torch.from_numpy(self._graph.surviving(name, dim, self._kept))
        return stays if len(stays) < size else None


def _close(expected: Tensor, found: Tensor) -> bool:
    if expected.shape != found.shape:
        return False
    scale = float(expected.abs().max())
    return bool(torch.allclose(expected, found, rtol=1e-3, atol=1e-4 * scale + 1e-7))

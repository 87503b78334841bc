"""Sizes: what the symbolic sizes of an exported program stand for, in the example and for one sample."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

__all__ = ["Sizes", "symbols"]

_UNKNOWN = 3
"""The size of what no tensor bounds: a number that a call reads out of a tensor, say."""


def symbols(size: Any) -> frozenset[Any]:
    """Return the symbols that a size is made of; none for a plain number or a size that the code fixed."""
    return frozenset(size.node.expr.free_symbols) if isinstance(size, torch.SymInt) else frozenset()


class Sizes:
    """Turns symbolic sizes into numbers: those of the example, and those for a batch of one sample.

    How many entries a mask chooses is in no example (``x[mask]``, ``nonzero``, ``unique``): all of them count, which
    is the most that there can be.
    """

    def __init__(self, batch: Iterable[Any]) -> None:
        self._batch = frozenset(batch)
        self._example: dict[Any, int] = {}
        self._alone: dict[Any, int] = {}
        self._known: dict[tuple[Any, bool], int] = {}

    def learn(self, node: FxNode) -> None:
        """Note what the sizes stand for that a call brings up first; calls are told of in their order."""
        for size in _sizes(node.meta.get("val")):
            for symbol in symbols(size) - self._example.keys():
                hint = _hint(size, symbol)
                if hint is not None:
                    self._example[symbol] = hint
                    self._alone[symbol] = 1 if symbol in self._batch else hint
                else:
                    self._example[symbol], self._alone[symbol] = self._most(node)

    def example(self, size: int | torch.SymInt) -> int:
        """Return a size in the example."""
        return self._of(size, False)

    def alone(self, size: int | torch.SymInt) -> int:
        """Return a size for a batch of one sample."""
        return self._of(size, True)

    def _of(self, size: int | torch.SymInt, alone: bool) -> int:
        if not isinstance(size, torch.SymInt):
            return size
        expression = size.node.expr
        key = expression, alone
        if key not in self._known:
            given: Mapping[Any, int] = self._alone if alone else self._example
            self._known[key] = int(expression.subs({s: given[s] for s in expression.free_symbols}))  # pyright: ignore[reportArgumentType]
        return self._known[key]

    def _most(self, node: FxNode) -> tuple[int, int]:
        """Return how many entries a call can choose at most, in the example and for one sample."""
        indexed = (
            any(name in str(node.target) for name in ("index", "repeat_interleave")) and len(node.args) > 1
        )
        choosers = pytree.tree_leaves(node.args[1:] if indexed else node.args)  # what is indexed has no say
        shapes = [a.meta["val"].shape for a in choosers if isinstance(a, FxNode) and _is_tensor(a)]
        if not shapes or not _is_tensor(node, several=True):
            return _UNKNOWN, _UNKNOWN
        counts = [(math.prod(map(self.example, s)), math.prod(map(self.alone, s))) for s in shapes]
        example, alone = max(counts)
        return max(example, 2), max(alone, 2)  # dimensions of one take no part in what is reshaped


def _hint(size: torch.SymInt, symbol: Any) -> int | None:
    """Return what a symbol was in the example, None where that follows from values."""
    environment = size.node.shape_env
    known = getattr(environment, "backed_var_to_val", None) or getattr(environment, "var_to_val", {})
    return int(known[symbol]) if symbol in known else None


def _sizes(value: Any) -> list[Any]:
    values = value if isinstance(value, list | tuple) else [value]
    return [n for v in values for n in (v.shape if isinstance(v, Tensor) else [v])]


def _is_tensor(node: FxNode, several: bool = False) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) or (several and isinstance(value, list | tuple))

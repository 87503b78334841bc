"""Labels: which unit each index of a value belongs to, and the union-find that merges units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["Labels", "Reason", "UnionFind", "Value", "expand_left", "flattened", "permute", "varying"]

Labels = NDArray[np.int64]
"""Unit labels, broadcastable to the shape of a value. 0 means frozen, size 1 means "does not vary here"."""


@dataclass(frozen=True)
class Reason:
    """Why a dimension may not shrink: a sentence, and the call where that was found."""

    text: str
    op: str = ""
    module: str = ""
    source: str = ""
    structural: bool = False  # nobody would think of pruning it (a kernel position), so reports leave it out


@dataclass(frozen=True)
class Value:
    """A tensor of the program: its shape and its label fields.

    Fields vary over disjoint sets of dimensions; one field may vary over several, as (head, channel) does.
    """

    shape: tuple[int, ...]
    fields: tuple[Labels, ...] = ()
    static: bool = field(default=False, compare=False)  # made from parameters alone
    cause: Reason | None = field(default=None, compare=False)  # why its last label went, if any had
    mask: bool = field(default=False, compare=False)  # holds true and false

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def moved(self, shape: Sequence[int], move: Callable[[Labels], Labels]) -> Value:
        """Return the value in another shape, each of its fields moved alike."""
        return replace(self, shape=tuple(shape), fields=tuple(map(move, self.fields)))

    def reshaped(self, form: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Value:
        """Return the value with its sizes, and those of its fields, in another form."""
        return self.moved(form(self.shape), lambda labels: labels.reshape(form(labels.shape)))

    def as_channels(self, ndim: int) -> Value:
        """Lay a vector along dimension 1 of so many."""
        return self.reshaped(lambda sizes: (1, *sizes, *[1] * (ndim - 2)))


def varying(labels: Labels) -> set[int]:
    """Return the dimensions over which a field varies.

    >>> varying(np.arange(6).reshape(1, 3, 2))
    {1, 2}
    """
    return {d for d, n in enumerate(labels.shape) if n > 1}


class UnionFind:
    """Disjoint sets of labels, one of which (label 0) is frozen: whatever joins it is frozen too.

    >>> sets = UnionFind(); a, b = sets.fresh(3), sets.fresh(3)
    >>> sets.union(a, b, Reason("met")); bool((sets.find(a) == sets.find(b)).all())
    True
    >>> sets.freeze(a[:1], Reason("normalised")); sets.find(b)[0], sets.reason(int(b[0])).text
    (np.int64(0), 'normalised')
    """

    def __init__(self) -> None:
        self._parent = np.zeros(1, dtype=np.int64)
        self._frozen = np.ones(1, dtype=bool)
        self._size = 1
        self._reasons: dict[int, Reason] = {0: Reason("has no label")}

    def __len__(self) -> int:
        return self._size

    def fresh(self, count: int) -> Labels:
        """Return `count` new labels, each in a set of its own."""
        needed = self._size + count
        if needed > len(self._parent):
            grown = max(2 * len(self._parent), needed)
            self._parent = np.concatenate([self._parent, np.arange(len(self._parent), grown)])
            self._frozen = np.concatenate([self._frozen, np.zeros(grown - len(self._frozen), dtype=bool)])
        labels = np.arange(self._size, needed)
        self._size = needed
        return labels

    def find(self, labels: Labels) -> Labels:
        """Return the representative of each label; 0 for every frozen one."""
        roots = self._roots(labels)
        return np.where(self._frozen[roots], 0, roots)

    def union(self, a: Labels, b: Labels, why: Reason) -> None:
        """Merge labels pairwise, after broadcasting; `why` is recorded where one of a pair is plain 0."""
        a, b = np.broadcast_arrays(a, b)
        a, b = self._roots(a).ravel(), self._roots(b).ravel()
        different = a != b
        if not different.any():
            return
        parent = self._parent
        for x, y in np.unique(np.stack([a[different], b[different]], axis=1), axis=0).tolist():
            x, y = self._root(x), self._root(y)
            if x == y:
                continue
            if (self._frozen[y] and not self._frozen[x]) or (y < x and not self._frozen[x]):
                x, y = y, x
            if x == 0 and not self._frozen[y]:
                self._frozen[y] = True  # keeps its own root, so that the reason is its own
                self._reasons[y] = why
            elif not (self._frozen[x] and self._frozen[y]):
                parent[y] = x

    def freeze(self, labels: Labels, why: Reason) -> None:
        """Freeze the sets of these labels; those frozen already keep their reason."""
        for root in np.unique(self._roots(labels)).tolist():
            if not self._frozen[root]:
                self._frozen[root] = True
                self._reasons[root] = why

    def reason(self, label: int) -> Reason | None:
        """Return why a label is frozen, or None if it is not."""
        return self._reasons.get(int(self._roots(np.asarray([label]))[0]))

    def _root(self, x: int) -> int:
        while (up := int(self._parent[x])) != x:
            x = up
        return x

    def _roots(self, labels: Labels) -> Labels:
        labels = np.asarray(labels, dtype=np.int64)
        roots = self._parent[labels]
        while True:
            further = self._parent[roots]
            if np.array_equal(further, roots):
                break
            roots = further
        self._parent[labels] = roots
        return roots


def flattened(shape: tuple[int, ...], *dims: int) -> tuple[int, ...]:
    """Return a shape with one entry along these dimensions.

    >>> flattened((2, 3, 4), 1)
    (2, 1, 4)
    """
    return tuple(1 if d in dims else n for d, n in enumerate(shape))


def expand_left(value: Value, ndim: int) -> Value:
    """Return the value with dimensions of size 1 put before it, as broadcasting does."""
    missing = (1,) * (ndim - value.ndim)
    return value.reshaped(lambda sizes: missing + sizes)


def permute(value: Value, order: Sequence[int]) -> Value:
    """Return the value with its dimensions in another order."""
    return value.moved([value.shape[d] for d in order], lambda labels: labels.transpose(order))

"""Context: all that an operator's rule may do to labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .groups import Kind
from .labels import Labels, Reason, UnionFind, Value, expand_left, flattened, varying
from .program import Node, Shape

__all__ = ["Context", "Piece", "Unsupported"]


class Unsupported(Exception):  # noqa: N818  (a rule's answer, not an error of the user's)
    """A rule does not cover this form of its operator; the message is the reason for freezing."""


@dataclass(frozen=True)
class Piece:
    """Labels along a part of a dimension that may not become empty."""

    labels: Labels
    reason: str


@dataclass(frozen=True)
class _Grid:
    """A field that one split dimension left varying over several: what survives must be a full grid."""

    labels: Labels
    dims: tuple[int, ...]
    why: Reason


class Context:
    """The state of one analysis, and the primitives from which rules are made.

    `here` is the call that the running rule stands for; reasons name it.
    """

    def __init__(self) -> None:
        self.sets = UnionFind()
        self.pieces: list[Piece] = []
        self.marks: list[tuple[Kind, Labels]] = []
        self.here = Node("", "", "", (), {}, None)
        self._grids: list[_Grid] = []
        self._copies: set[int] = set()

    def why(self, text: str, structural: bool = False) -> Reason:
        """Return a reason that names the running call."""
        return Reason(text, self.here.op, self.here.module, self.here.source, structural)

    def find(self, labels: Labels) -> Labels:
        """Return the representatives; 0 for frozen ones."""
        return self.sets.find(labels)

    def union(
        self, a: Labels, b: Labels, why: str | Reason = "joins a dimension that may not shrink"
    ) -> None:
        """Merge labels pairwise, after broadcasting; `why` counts where one of a pair is frozen already."""
        self.sets.union(a, b, why if isinstance(why, Reason) else self.why(why))

    def freeze(self, labels: Labels, why: str | Reason) -> None:
        """Say that these labels stay for good."""
        self.sets.freeze(labels, why if isinstance(why, Reason) else self.why(why))

    def mark(self, kind: Kind, labels: Labels) -> None:
        """Note what kind of unit these labels turned out to be."""
        self.marks.append((kind, labels))

    def piece(self, labels: Labels, reason: str) -> None:
        """Require that one of these labels survives."""
        self.pieces.append(Piece(labels, reason))

    def copies(self, value: Value, dim: int, times: int) -> Value:
        """Say that a dimension without labels counts copies, `times` of each index: any may go with what it meets."""
        labels = self.sets.fresh(times)
        self._copies.update(labels.tolist())
        size = value.shape[dim]
        along = np.tile(labels, size // times).reshape([size if d == dim else 1 for d in range(value.ndim)])
        return replace(value, fields=(*value.fields, along))

    def norm(self, value: Value) -> Value:
        """Return the value with present labels: dimensions that vary no more become 1, frozen fields go.

        A field that has become a single unit is frozen, since removing it would leave an empty tensor.
        """
        fields, cause = [], value.cause
        for labels in value.fields:
            present = self.find(labels)
            for d in varying(present):
                first = present.take([0], axis=d)
                if (present == first).all():
                    present = first
            if present.size == 1 and present.any():
                self.freeze(present, "all its units hang together: none can go without the others")
            if present.size > 1 and present.any():
                fields.append(present)
            elif labels.any():
                cause = self.sets.reason(int(labels[labels != 0][0])) or cause
        return replace(value, fields=tuple(fields), cause=cause)

    def block(self, labels: Labels, dims: Iterable[int] | None, why: str | Reason) -> Labels:
        """Say that these dimensions keep their size (None: all) and return the present labels.

        The field is unified along them; if it then varies nowhere, it is frozen. That turns (head, channel)
        labels into whole heads.
        """
        over = varying(labels)
        blocked = over if dims is None else over & set(dims)
        if blocked and over - blocked:
            return self.coarsen(labels, blocked)
        if blocked or dims is None:
            self.freeze(labels, why)
        return self.find(labels)

    def block_value(self, value: Value, dims: Iterable[int] | None, why: str | Reason) -> Value:
        """Block dimensions in every field of a value and return what is left."""
        dims = None if dims is None else [d % value.ndim for d in dims]
        return self.norm(replace(value, fields=tuple(self.block(f, dims, why) for f in value.fields)))

    def coarsen(self, labels: Labels, dims: Iterable[int]) -> Labels:
        """Unify a field along dimensions and return the present labels, in the same shape."""
        for d in dims:
            if labels.shape[d] > 1:
                self.union(labels, labels.take([0], axis=d))
        return self.find(labels)

    def joint(self, shape: Shape, values: Sequence[Value]) -> Value:
        """Combine values index by index, as a broadcasting operator does.

        Fields that overlap are unified. Where a partner has its true size but no label, the other's
        dimension is blocked.
        """
        values = [self.norm(expand_left(v, len(shape))) for v in values]
        merged: list[Labels] = []
        for k, value in enumerate(values):
            for labels in value.fields:
                self._meet(labels, [w for i, w in enumerate(values) if i != k])
                merged.append(labels)
        out: list[Labels] = []
        for labels in merged:
            for i, other in enumerate(out):
                if varying(other) & varying(labels):
                    wide = np.broadcast_arrays(labels, other)[0]
                    self.union(labels, other)
                    out[i] = wide
                    break
            else:
                out.append(labels)
        cause = next((v.cause for v in values if v.cause), None)
        return self.norm(Value(shape, tuple(out), all(v.static for v in values), cause))

    def _meet(self, labels: Labels, partners: Sequence[Value]) -> None:
        over = varying(labels)
        for partner in partners:
            true_size = {d for d in over if partner.shape[d] > 1}
            if not true_size:
                continue
            overlapping = [f for f in partner.fields if varying(f) & over]
            for other in overlapping:
                self.union(labels, other)
            if not overlapping:
                why = partner.cause or self.why("meets a value that may not shrink")
                self.block(labels, true_size, why)

    def reduce(
        self, value: Value, dims: Iterable[int], keepdim: bool, why: str, zeros: bool = False
    ) -> Value:
        """Reduce over dimensions; `zeros`: a removed index adds nothing, so that nothing need be frozen."""
        over = {d % value.ndim for d in dims}
        fields = []
        for labels in self.norm(value).fields:
            if varying(labels) & over:
                if varying(labels) <= over:
                    if not zeros:
                        self.freeze(labels, why)
                    continue
                labels = self.coarsen(labels, over)
                for d in over:
                    labels = labels.take([0], axis=d)
            fields.append(labels)
        reduced = self.norm(replace(value, shape=flattened(value.shape, *over), fields=tuple(fields)))
        if keepdim:
            return reduced
        return reduced.reshaped(lambda sizes: tuple(n for d, n in enumerate(sizes) if d not in over))

    def contract(self, products: Value, dims: Iterable[int], weighted: bool) -> Value:
        """Sum products over dimensions. `weighted`: at most one of the factors is an activation.

        A removed index is then a row of zeros in a weight. Between two activations nothing says that it is
        zero (think of exp), so it is frozen.
        """
        # Why the factors were frozen says nothing about the dimensions that are left.
        products = replace(products, cause=None)
        return self.reduce(products, dims, False, "is contracted between two activations", zeros=weighted)

    def view(self, value: Value, shape: Shape) -> Value:
        """Reshape: dimensions are matched by their running products, and labels moved literally."""
        if 0 in value.shape:
            return Value(shape)
        matched = _match(value.shape, shape)
        fields = []
        for labels in self.norm(value).fields:
            source, target = [1] * value.ndim, [1] * len(shape)
            for old, new in matched:
                if varying(labels) & set(old):
                    for d in old:
                        source[d] = value.shape[d]
                    for d in new:
                        target[d] = shape[d]
            moved = np.broadcast_to(labels, source).reshape(target)
            for field in self.norm(Value(shape, (moved,))).fields:
                for _, new in matched:
                    grid = tuple(d for d in new if field.shape[d] > 1)
                    if len(grid) > 1:
                        self._grids.append(_Grid(field, grid, self.why("is reshaped")))
                fields.append(field)
        return replace(value, shape=shape, fields=tuple(f for f in fields if not self._yields(f, fields)))

    def _yields(self, labels: Labels, fields: Sequence[Labels]) -> bool:
        """Freeze mere copies along a dimension that has units of its own, as key and value heads have."""
        shared = any(varying(labels) & varying(other) for other in fields if other is not labels)
        if not shared or not self._copies.issuperset(np.unique(self.find(labels)).tolist()):
            return False
        self.freeze(labels, "counts copies of units")
        return True

    def select(self, value: Value, dim: int, index: Sequence[int] | slice) -> Value:
        """Take indices of one dimension."""
        index = list(range(value.shape[dim])[index]) if isinstance(index, slice) else list(index)
        shape = (*value.shape[:dim], len(index), *value.shape[dim + 1 :])
        if not index:
            return Value(shape)
        return self.norm(value.moved(shape, lambda f: f.take(index, axis=dim) if f.shape[dim] > 1 else f))

    def drop_dim(self, value: Value, dim: int) -> Value:
        """Remove a dimension along which no field varies."""
        return value.reshaped(lambda sizes: sizes[:dim] + sizes[dim + 1 :])

    def settle(self, values: Iterable[Value]) -> None:
        """Make sure that what survives is a full grid: a field that still varies over several dims is unified.

        The outer dimensions are unified, which leaves one unit for each inner index (a channel shuffle
        keeps C / 2 units).
        """
        grids = list(self._grids)
        why = Reason("must stay a full grid")
        for value in values:
            grids += [_Grid(f, tuple(varying(f)), why) for f in value.fields if len(varying(f)) > 1]
        changed = True
        while changed:
            changed = False
            for grid in grids:
                labels = self.find(grid.labels)
                over = [d for d in grid.dims if (labels != labels.take([0], axis=d)).any()]
                if len(over) > 1:
                    for d in over[:-1]:
                        self.sets.union(labels, labels.take([0], axis=d), grid.why)
                    changed = True


def _match(source: Shape, target: Shape) -> list[tuple[list[int], list[int]]]:
    """Pair runs of dimensions of equal product; dimensions of size 1 take no part.

    Raises:
        Unsupported: the shapes do not hold equally many elements.
    """
    if math.prod(source) != math.prod(target):
        raise Unsupported(f"reshapes {source} to {target}")
    old = [(d, n) for d, n in enumerate(source) if n != 1]
    new = [(d, n) for d, n in enumerate(target) if n != 1]
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old):
        run_old, run_new = [old[i][0]], [new[j][0]]
        a, b = old[i][1], new[j][1]
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                run_old.append(old[i][0])
                a *= old[i][1]
                i += 1
            else:
                run_new.append(new[j][0])
                b *= new[j][1]
                j += 1
        runs.append((run_old, run_new))
    return runs

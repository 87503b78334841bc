"""Everything that a selection predicts about the calls of the smaller model: their shapes and integer arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from secateur.graph.graph import Graph
from secateur.graph.groups import Kept
from secateur.graph.program import Node, Ref, Shape

__all__ = ["INFERRED", "SIZES", "Change", "Prediction", "differences", "predict"]

Change = tuple[tuple[int, ...], Any, Any]
"""A place among nested arguments, and what stands there before and after."""

# Where an operator takes sizes of its own output.
SIZES = {
    "_unsafe_view": 1,
    "broadcast_to": 1,
    "expand": 1,
    "full": 0,
    "new_empty": 1,
    "new_full": 1,
    "new_ones": 1,
    "new_zeros": 1,
    "ones": 0,
    "repeat": 1,  # how often, which is the size where there was one
    "reshape": 1,
    "view": 1,
    "zeros": 0,
}
INFERRED = frozenset({"_unsafe_view", "reshape", "unflatten", "view"})
"""Operators that find out one of the sizes, if it is -1."""

_CONVOLUTIONS = {f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3)}


@dataclass(frozen=True)
class Prediction:
    """Shapes and arguments of every call after a selection."""

    graph: Graph
    kept: Kept
    before: Mapping[str, Shape]
    after: Mapping[str, Shape]
    parameters: Mapping[str, Shape]  # by canonical name

    def arguments(self, node: Node) -> tuple[Any, ...]:
        """Return the positional arguments that a call will have; operators that are not known here keep theirs."""
        args, before, after = list(node.args), self.before, self.after
        match node.op, args:
            case op, _ if op in SIZES and len(args) > SIZES[op] and node.name in after:
                at = SIZES[op]
                args[at] = _sizes(args[at], before[node.name], after[node.name])
            case "unflatten", [Ref(), int(dim), sizes, *_] if node.name in after:
                old, new = before[node.name], after[node.name]
                dim %= len(old) - len(sizes) + 1
                args[2] = _sizes(sizes, old[dim:], new[dim:])
            case (("split" | "split_with_sizes"), [Ref(), sizes, *rest]) if made := self._outputs(node):
                dim = rest[0] if rest else node.kwargs.get("dim", 0)
                parts = tuple(shape[dim] for shape in made)
                args[1] = parts[0] if isinstance(sizes, int) else parts
            case "slice", [Ref(x), int(dim), *bounds] if x in before:
                for i, bound in enumerate(bounds[:2]):
                    args[2 + i] = self._moved(bound, x, dim)
            case "select", [Ref(x), int(dim), int(index), *_] if x in before:
                args[2] = self._moved(index, x, dim)
            case "narrow", [Ref(x), int(dim), int(start), int(length), *_] if x in before:
                args[2] = self._moved(start, x, dim)
                args[3] = sum(start <= i < start + length for i in self._survivors(x, dim))
            # Groups that are no number count the batch: the code has them.
            case op, [Ref(x), Ref(weight), _, _, _, _, int(groups), *_] if (
                op in _CONVOLUTIONS and groups != 1
            ):
                if x in after and weight in after:
                    # The second dimension of the weight counts the inputs of a group; if it is transposed, the outputs.
                    counted = after[node.name if "transpose" in op else x]
                    args[6] = counted[len(counted) - len(after[weight]) + 1] // after[weight][1]
            case "repeat_interleave", [Ref(x), int(repeats), int(dim), *_] if (
                x in after and node.name in after
            ):
                args[1] = after[node.name][dim] // after[x][dim] if after[x][dim] else repeats
            case "group_norm", [Ref(x), int(groups), *_] if x in after:
                args[1] = after[x][1] * groups // before[x][1]
        return tuple(args)

    def changes(self, node: Node) -> Iterator[Change]:
        """Yield every size among the arguments of a call that changes."""
        found = differences(node.args, self.arguments(node))
        yield from (change for change in found if type(change[1]) is int)
        at = SIZES.get(node.op)
        if at is not None and at < len(node.args) and node.name in self.after:
            # A multiple of the batch size: heads that were folded into the batch.
            sizes = node.args[at] if isinstance(node.args[at], tuple) else ()
            shapes = self.before[node.name], self.after[node.name]
            for i, (size, old, new) in enumerate(zip(sizes, *shapes, strict=False)):
                if isinstance(size, Ref) and old != new:
                    yield (at, i), old, new

    def _survivors(self, value: str, dim: int) -> list[int]:
        """Return the indices of a dimension that stay."""
        survivors: list[int] = self.graph.surviving_along(value, dim, self.kept).tolist()
        return survivors

    def _moved(self, bound: Any, value: str, dim: int) -> Any:
        """Return where a bound of a dimension lies among its surviving indices."""
        size, stays = self.before[value][dim], self._survivors(value, dim)
        if not isinstance(bound, int) or len(stays) == size or abs(bound) > size:
            return bound
        return -sum(i >= size + bound for i in stays) if bound < 0 else sum(i < bound for i in stays)

    def _outputs(self, node: Node) -> tuple[Shape, ...]:
        """Return the shapes of all results of a call with several, or nothing if some are not used."""
        found = {u.args[1]: self.after.get(u.name) for u in self.graph.users(node.name) if u.op == "getitem"}
        shapes = tuple(s for i in range(len(node.several or ())) if (s := found.get(i)) is not None)
        return shapes if len(shapes) == len(node.several or ()) else ()


def predict(graph: Graph, kept: Kept) -> Prediction:
    """Return what a selection predicts.

    Raises:
        SurgeryError: the selection names a unit that does not exist or leaves a ragged value.
    """
    return Prediction(graph, kept, graph.sizes({}), graph.sizes(kept), graph.shapes(kept))


def differences(old: Any, new: Any, place: tuple[int, ...] = ()) -> Iterator[Change]:
    """Yield the integers that differ, and tuples of integers that differ as a whole."""
    if type(old) is int and type(new) is int and old != new:
        yield place, old, new
    if isinstance(old, tuple) and isinstance(new, tuple) and old != new:
        if old and all(type(n) is int for n in (*old, *new)):
            yield place, old, new
        for i, (a, b) in enumerate(zip(old, new, strict=False)):
            yield from differences(a, b, (*place, i))


def _sizes(sizes: Any, before: Shape, after: Shape) -> Any:
    if not isinstance(sizes, tuple):
        return sizes
    # An entry that is not the true size is -1, or a symbol.
    told = zip(sizes, before, after, strict=False)
    return tuple(new if size == old else size for size, old, new in told) + sizes[len(before) :]

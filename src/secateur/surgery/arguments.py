"""Prediction of constants: which integer arguments of which calls follow a selection, and to what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from secateur.graph.program import Node, Ref, Shape

__all__ = ["INFERRED", "SIZES", "predicted_arguments"]

Predicted = Mapping[str, Shape]
Survivors = Callable[[str, int], tuple[int, ...]]
"""Of a value and a dimension: the indices that stay."""

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


def predicted_arguments(
    node: Node, before: Predicted, after: Predicted, survivors: Survivors, outputs: tuple[Shape, ...]
) -> tuple[Any, ...]:
    """Return the positional arguments that a call will have in the smaller model.

    ``before`` and ``after`` are the shapes of all values, dense and smaller; ``outputs`` the smaller shapes of
    the results of an operator that has several. An operator that is not known here keeps its arguments.
    """
    args = list(node.args)
    match node.op, args:
        case op, _ if op in SIZES and len(args) > SIZES[op] and node.name in after:
            at = SIZES[op]
            args[at] = _sizes(args[at], before[node.name], after[node.name])
        case "unflatten", [Ref(), int(dim), sizes, *_] if node.name in after:
            old, new = before[node.name], after[node.name]
            dim %= len(old) - len(sizes) + 1
            args[2] = _sizes(sizes, old[dim:], new[dim:])
        case (("split" | "split_with_sizes"), [Ref(), sizes, *rest]) if outputs:
            dim = rest[0] if rest else node.kwargs.get("dim", 0)
            made = tuple(shape[dim] for shape in outputs)
            args[1] = made[0] if isinstance(sizes, int) else made
        case "slice", [Ref(x), int(dim), *bounds] if x in before:
            for i, bound in enumerate(bounds[:2]):
                args[2 + i] = _moved(bound, before[x][dim], survivors(x, dim))
        case "select", [Ref(x), int(dim), int(index), *_] if x in before:
            args[2] = _moved(index, before[x][dim], survivors(x, dim))
        case "narrow", [Ref(x), int(dim), int(start), int(length), *_] if x in before:
            stays = survivors(x, dim)
            args[2] = _moved(start, before[x][dim], stays)
            args[3] = sum(start <= i < start + length for i in stays)
        # Groups that are no number count the batch: the code has them.
        case op, [Ref(x), Ref(weight), _, _, _, _, int(groups), *_] if op in _CONVOLUTIONS and groups != 1:
            if x in after and weight in after:
                # The second dimension of the weight counts the inputs of a group; if it is transposed, the outputs.
                counted = after[node.name if "transpose" in op else x]
                args[6] = counted[len(counted) - len(after[weight]) + 1] // after[weight][1]
        case "repeat_interleave", [Ref(x), int(repeats), int(dim), *_] if x in after and node.name in after:
            args[1] = after[node.name][dim] // after[x][dim] if after[x][dim] else repeats
        case "group_norm", [Ref(x), int(groups), *_] if x in after:
            args[1] = after[x][1] * groups // before[x][1]
    return tuple(args)


def _sizes(sizes: Any, before: Shape, after: Shape) -> Any:
    if not isinstance(sizes, tuple):
        return sizes
    # An entry that is not the true size is -1, or a symbol.
    return (
        tuple(new if size == old else size for size, old, new in zip(sizes, before, after, strict=False))
        + (sizes[len(before) :])
    )


def _moved(bound: Any, size: int, stays: tuple[int, ...]) -> Any:
    """Return where a bound of a dimension lies among its surviving indices."""
    if not isinstance(bound, int) or len(stays) == size or abs(bound) > size:
        return bound
    if bound < 0:
        return -sum(i >= size + bound for i in stays)
    return sum(i < bound for i in stays)

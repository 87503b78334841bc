"""Which dimension of the inputs counts samples: a guess, and what the exported calls say of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from .einsum import spelled_out
from .program import Node, Program, Ref, references

__all__ = ["Dims", "guesses", "mixes", "samples_inside"]

Dims = tuple[int | None, ...]
"""By input: the dimension that counts samples, or None."""


def guesses(leaves: Sequence[Any]) -> Iterator[Dims]:
    """Yield what the batch may be, most likely first: dimension 0 of the first tensor, and of sequences dimension 1.

    In the other inputs it is a dimension of the same size; whether they are one is for an export to say.
    """
    first = next((x for x in leaves if isinstance(x, Tensor) and x.ndim), None)
    if first is None:
        return
    for dim in range(2 if first.ndim in (2, 3) else 1):
        yield tuple(_like(x, first.shape[dim], dim) if isinstance(x, Tensor) else None for x in leaves)


def _like(value: Tensor, size: int, dim: int) -> int | None:
    """Return the dimension of that size, `dim` rather than the other; what has one entry broadcasts, if elsewhere."""
    places = (d for d in (dim, 1 - dim) if d == dim or size > 1)
    return next((d for d in places if value.shape[d : d + 1] == (size,)), None)


def mixes(nodes: Iterable[Node]) -> Node | None:
    """Return the first call in which what grows with the batch is no row of independent samples; None if all are.

    Attention over it, a recurrent layer along it, a product that sums over it, a convolution that slides over it, or
    rows that are looked up by numbers which the batch did not make (edges of a graph). Means over it do not count:
    losses beside the outputs have them.
    """
    known = {node.name: node for node in nodes}
    return next((node for node in known.values() if _mixes(node, known)), None)


def samples_inside(program: Program, name: str) -> bool:
    """Whether the rows of a value come position by position, each with all samples: (T * N, ...), not (N * T, ...).

    torch's own attention lays them out so.
    """
    node = program.node(name)
    while isinstance(node.alone, tuple) and node.carries(0) and node.sizes()[1][0] > 1:
        source = next((program.node(read) for read in references(node.args[:1])), None)
        if source is None or not isinstance(source.alone, tuple) or not source.alone:
            return False
        shape = source.tensor_shape()
        if shape[0] != node.tensor_shape()[0] and not source.carries(0):  # several dimensions became one here
            return any(source.carries(d) for d in range(1, len(shape)))
        node = source
    return False


def _mixes(node: Node, known: Mapping[str, Node]) -> bool:
    rule = _RULES.get(node.op)
    if rule is None:
        return False
    args = [known.get(a.name, a) if isinstance(a, Ref) else a for a in node.args]
    try:
        return rule(node, args, known)
    except (
        IndexError,
        TypeError,
        AttributeError,
        ValueError,
    ):  # a form of the call that is not thought of here
        return False


Rule = Callable[[Node, Sequence[Any], Mapping[str, Node]], bool]


def _grows(value: Any, *dims: int) -> bool:
    return isinstance(value, Node) and any(value.carries(d) for d in dims)


def _made_by_batch(value: Any) -> bool:
    return isinstance(value, Node) and _grows(value, *range(len(value.tensor_shape())))


def _along(node: Node, args: Sequence[Any], known: Mapping[str, Node]) -> bool:
    return _grows(args[0], *(args[1] if isinstance(args[1], tuple) else (args[1],)))


def _product(at: int) -> Rule:
    return lambda node, args, known: _grows(args[at], -1)


def _attention(node: Node, args: Sequence[Any], known: Mapping[str, Node]) -> bool:
    return _grows(args[0], -2) or _grows(args[1], -2)


def _recurrent(node: Node, args: Sequence[Any], known: Mapping[str, Node]) -> bool:
    packed = node.overload.endswith(".data")  # samples of several lengths, one behind the other
    batched = isinstance(args[0], Node) and len(args[0].tensor_shape()) == 3
    return not packed and _grows(args[0], 1 if batched and args[-1] else 0)


def _convolution(node: Node, args: Sequence[Any], known: Mapping[str, Node]) -> bool:
    rank = int(node.op.removesuffix("d")[-1])
    return _grows(args[0], *range(-rank, 0))


def _norm(node: Node, args: Sequence[Any], known: Mapping[str, Node]) -> bool:
    return _grows(args[0], *range(-len(args[1]), 0))


def _rows(node: Node, args: Sequence[Any], known: Mapping[str, Node]) -> bool:
    added_up = (
        len(args) > 3 and _grows(args[3], args[1]) and not _grows(args[0], args[1])
    )  # nodes into graphs
    return added_up or (_grows(args[0], args[1]) and not _made_by_batch(args[2]))


def _index(node: Node, args: Sequence[Any], known: Mapping[str, Node]) -> bool:
    given = [(d, known[i.name]) for d, i in enumerate(args[1]) if isinstance(i, Ref)]
    return any(_grows(args[0], d) for d, _ in given) and not any(_made_by_batch(i) for _, i in given)


def _einsum(node: Node, args: Sequence[Any], known: Mapping[str, Node]) -> bool:
    values = [known[o.name] for o in args[1]]
    terms, result = spelled_out(args[0], [len(v.tensor_shape()) for v in values])
    return any(
        v.carries(d)
        for term, v in zip(terms, values, strict=True)
        for d, letter in enumerate(term)
        if letter not in result
    )


_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("softmax", "log_softmax", "cumsum", "cumprod", "flip"), _along),
    **dict.fromkeys(("linear", "matmul", "mm", "bmm"), _product(0)),
    **dict.fromkeys(("addmm", "baddbmm"), _product(1)),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", *(f"conv_transpose{n}d" for n in (1, 2, 3))), _convolution),
    **dict.fromkeys(("layer_norm", "rms_norm"), _norm),
    **dict.fromkeys(("index_select", "gather", "index_add", "index_copy", "scatter", "scatter_add",
                     "scatter_reduce"), _rows),
    **dict.fromkeys(("index", "index_put"), _index),
    "scaled_dot_product_attention": _attention,
    "einsum": _einsum,
}  # fmt: skip

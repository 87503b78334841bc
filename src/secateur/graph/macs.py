"""Multiply-accumulates of a call: the one place where they are counted, for budgets, reports and documents alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.fx import Node as FxNode
from torch.fx import map_arg
from torch.utils.flop_counter import FlopCounterMode

from .einsum import spelled_out
from .flops import FORMULAS
from .program import Node, Program, put
from .rules import RULES

__all__ = ["COUNTED", "Length", "Product", "products", "total"]


@dataclass(frozen=True)
class Length:
    """The size of one dimension of a call's output."""

    node: str
    dim: int


Product = tuple[Length | int, ...]
"""A count of multiply-accumulates as the product of some sizes, for a batch of one sample if those are."""

Formula = Callable[..., Iterable[Product]]
"""Called with the node and its arguments, nodes for tensors."""
F = TypeVar("F", bound=Formula)

COUNTED: dict[str, Formula] = {}
"""Filled by the decorators below: operator family -> what it multiplies."""


def products(program: Program, node: Node) -> tuple[Product, ...]:
    """Return what a call multiplies and adds up, as products of sizes; nothing for all that does not.

    A call of an operator that nobody here knows is counted by torch's own counter, on tensors without data.
    """
    if node.op in COUNTED:
        args, kwargs = put((node.args, node.kwargs), program.node)
        try:
            return tuple(COUNTED[node.op](node, *args, **kwargs))
        except (AttributeError, IndexError, TypeError, ValueError):
            pass  # a form of the call that the formula does not cover
    elif node.op in RULES or node.op in ("placeholder", "output"):
        return ()
    measured = _measured(program, node)
    return ((measured,),) if measured else ()


def total(program: Program) -> int:
    """Return the multiply-accumulates of the whole program, for one sample."""

    def size(length: Length | int) -> int:
        return length if isinstance(length, int) else program.node(length.node).sizes()[1][length.dim]

    found = (product for node in program.nodes for product in products(program, node))
    return sum(prod(map(size, product)) // program.held for product in found)


def _formula(*operators: str) -> Callable[[F], F]:
    def register(function: F) -> F:
        COUNTED.update(dict.fromkeys(operators, function))
        return function

    return register


def _lengths(node: Node, dims: Iterable[int] | None = None) -> Product:
    rank = len(node.tensor_shape())
    return tuple(Length(node.name, d % rank) for d in (range(rank) if dims is None else dims))


@_formula("linear", "matmul", "mm", "bmm", "mv", "dot", "vdot", "inner", "_grouped_mm")
def _product(out: Node, a: Node, b: Node, *_: Any, **__: Any) -> Iterator[Product]:
    yield (*_lengths(out), *_lengths(a, [-1]))


@_formula("addmm", "baddbmm", "addmv")
def _added(out: Node, bias: Node, a: Node, b: Node, *_: Any, **__: Any) -> Iterator[Product]:
    yield (*_lengths(out), *_lengths(a, [-1]))


@_formula("addbmm")
def _added_up(out: Node, bias: Node, a: Node, b: Node, *_: Any, **__: Any) -> Iterator[Product]:
    yield (*_lengths(out), *_lengths(a, [0, 2]))


@_formula("conv1d", "conv2d", "conv3d")
def _convolution(out: Node, x: Node, weight: Node, *_: Any, **__: Any) -> Iterator[Product]:
    yield (*_lengths(out), *_lengths(weight, range(1, len(weight.tensor_shape()))))


@_formula("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _transposed(out: Node, x: Node, weight: Node, *_: Any, **__: Any) -> Iterator[Product]:
    yield (*_lengths(x), *_lengths(weight, range(1, len(weight.tensor_shape()))))


@_formula("torchvision.deform_conv2d")
def _deformed(out: Node, x: Node, weight: Node, *_: Any, **__: Any) -> Iterator[Product]:
    yield (*_lengths(out), *_lengths(weight, [1, 2, 3]))


@_formula("scaled_dot_product_attention")
def _attention(out: Node, query: Node, key: Node, value: Node, *_: Any, **__: Any) -> Iterator[Product]:
    pairs = (*_lengths(out)[:-1], *_lengths(key, [-2]))
    yield (*pairs, *_lengths(query, [-1]))
    yield (*pairs, *_lengths(value, [-1]))


@_formula("bilinear")
def _bilinear(out: Node, a: Node, b: Node, weight: Node, *_: Any, **__: Any) -> Iterator[Product]:
    yield (*_lengths(out), *_lengths(weight, [1, 2]))


@_formula("cdist")
def _distances(out: Node, a: Node, b: Node, *_: Any, **__: Any) -> Iterator[Product]:
    yield (*_lengths(out), *_lengths(a, [-1]))


@_formula("tensordot")
def _tensordot(out: Node, a: Node, b: Node, dims: Sequence[int], *_: Any, **__: Any) -> Iterator[Product]:
    yield (*_lengths(out), *_lengths(a, dims))


@_formula("einsum")
def _einsum(
    out: Node, equation: str, operands: Sequence[Node], path: Sequence[int] | None = None, **_: Any
) -> Iterator[Product]:
    """Count pair by pair in torch's order; a letter that only one of a pair has is summed before."""
    terms, result = spelled_out(equation, [len(o.tensor_shape()) for o in operands])
    longest: dict[str, tuple[int, Length]] = {}  # by letter; what has one entry broadcasts
    for term, operand in zip(terms, operands, strict=True):
        for d, (letter, size) in enumerate(zip(term, operand.tensor_shape(), strict=True)):
            if letter not in longest or longest[letter][0] == 1:
                longest[letter] = size, Length(operand.name, d)
    left, places = list(terms), list(path or ())
    while len(left) > 1:
        i, j = sorted(places[:2]) if places else (0, 1)
        del places[:2]
        b, a = left.pop(j), left.pop(i)
        needed = set(result).union(*left)
        letters = "".join(dict.fromkeys(a + b))
        if any(c in a and c in b and c not in needed for c in letters):  # else they are only multiplied
            yield tuple(longest[c][1] for c in letters if c in needed or (c in a and c in b))
        left.insert(len(left) if path else 0, "".join(c for c in letters if c in needed))


@_formula("lstm", "gru", "rnn_tanh", "rnn_relu")
def _recurrent(out: Node, x: Node, *rest: Any, **_: Any) -> Iterator[Product]:
    """Count every matrix of all layers once at each position."""
    packed = out.overload.endswith(
        ".data"
    )  # then the sizes of the batches come before the state and the weights
    for weight in rest[2 if packed else 1]:
        if len(weight.tensor_shape()) == 2:
            yield (*_lengths(x)[:-1], *_lengths(weight))


@_formula("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def _cell(out: Node, x: Node, hidden: Any, *weights: Node | None, **_: Any) -> Iterator[Product]:
    for weight in weights[:2]:
        assert weight is not None
        yield (*_lengths(x)[:-1], *_lengths(weight))


def _measured(program: Program, node: Node) -> int:
    """Ask torch's counter, for one sample; 0 where the call cannot be made without data."""
    call = next(call for call, name in program.fx_names.items() if name == node.name)
    if not callable(call.target):
        return 0

    def empty(argument: FxNode) -> Any:
        value, known = argument.meta.get("val"), program.node(program.fx_names[argument])
        if isinstance(value, Tensor):
            return torch.empty(known.sizes()[1], dtype=value.dtype, device="meta")
        return known.hint_alone if known.hint is not None else value

    counter = FlopCounterMode(display=False, custom_mapping=dict(FORMULAS))
    try:
        with torch.no_grad(), counter:
            call.target(*map_arg(call.args, empty), **map_arg(call.kwargs, empty))
    except Exception:  # an operator that nobody here has seen, on tensors that hold nothing
        return 0
    return int(counter.get_total_flops()) // 2

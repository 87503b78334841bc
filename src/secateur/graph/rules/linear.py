"""Contractions: linear, matrix products, einsum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from string import ascii_letters

from ..context import Context, Unsupported
from ..einsum import spelled_out
from ..labels import Value, expand_left, permute, varying
from ..program import Node
from .registry import rule

OPERATORS = frozenset({"linear", "matmul", "bmm", "mm", "addmm", "baddbmm", "einsum", "tensordot", "inner"})


@rule("linear")
def linear(ctx: Context, node: Node, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """Contract the last dimension with that of the weight."""
    if weight.ndim != 2:
        raise Unsupported("linear with a weight that is no matrix")
    rows = _insert(x, x.ndim - 1)
    out = ctx.joint((*x.shape[:-1], *weight.shape), [rows, weight])
    out = ctx.contract(out, [-1], weighted=x.static or weight.static)
    return out if bias is None else ctx.joint(out.shape, [out, bias])


@rule("matmul", "bmm", "mm")
def matmul(ctx: Context, node: Node, a: Value, b: Value) -> Value:
    """Contract the inner dimensions; units that lie in a batch dimension are whole."""
    if a.ndim < 2 or b.ndim < 2:
        raise Unsupported("product with a vector")
    batch = max(a.ndim, b.ndim) - 2
    a, b = expand_left(a, batch + 2), expand_left(b, batch + 2)
    a, b = (_whole_batches(ctx, v, range(batch)) for v in (a, b))
    left, right = _insert(a, batch + 2), _insert(b, batch)
    shape = tuple(max(p, q) for p, q in zip(left.shape, right.shape, strict=True))
    out = ctx.joint(shape, [left, right])
    return ctx.contract(out, [batch + 1], weighted=a.static or b.static)


@rule("addmm", "baddbmm")
def add_product(ctx: Context, node: Node, bias: Value, a: Value, b: Value, **_: object) -> Value:
    """A matrix product added to a value."""
    return ctx.joint(node.tensor_shape(), [bias, matmul(ctx, node, a, b)])


@rule("einsum")
def einsum(ctx: Context, node: Node, equation: str, operands: tuple[Value, ...], **_: object) -> Value:
    """Contract what the result leaves out; units that lie in a batch dimension are whole."""
    terms, result = spelled_out(equation, [v.ndim for v in operands])
    if any(len(set(term)) < len(term) for term in terms):
        raise Unsupported("einsum over a diagonal")
    letters = result + "".join(sorted(set("".join(terms)) - set(result)))
    size: dict[str, int] = {}
    for term, value in zip(terms, operands, strict=True):
        for c, n in zip(term, value.shape, strict=True):
            if size.setdefault(c, n) != n:
                raise Unsupported("einsum that broadcasts")
    batch = [letters.index(c) for c in result if all(c in term for term in terms)]
    spread = []
    for term, value in zip(terms, operands, strict=True):
        value = permute(value, [term.index(c) for c in letters if c in term])
        for d, c in enumerate(letters):
            if c not in term:
                value = _insert(value, d)
        spread.append(_whole_batches(ctx, value, batch))
    out = ctx.joint(tuple(size[c] for c in letters), spread)
    summed = range(len(result), len(letters))
    activations = sum(not v.static for v in operands)
    return ctx.contract(out, summed, weighted=activations < 2) if summed else out


@rule("tensordot")
def tensordot(ctx: Context, node: Node, a: Value, b: Value, mine: Sequence[int], its: Sequence[int]) -> Value:
    """Contract some dimensions of one value with as many of another, as an equation does."""
    left, right = ascii_letters[: a.ndim], list(ascii_letters[a.ndim : a.ndim + b.ndim])
    for d, e in zip(mine, its, strict=True):
        right[e] = left[d]
    result = "".join(c for c in (*left, *right) if (c in left) != (c in right))
    return einsum(ctx, node, f"{left},{''.join(right)}->{result}", (a, b))


@rule("inner")
def inner(ctx: Context, node: Node, a: Value, b: Value) -> Value:
    """Contract the last dimensions."""
    return tensordot(ctx, node, a, b, [-1], [-1])


def _insert(value: Value, dim: int) -> Value:
    """Put a dimension of size 1 before `dim`."""
    return value.reshaped(lambda sizes: (*sizes[:dim], 1, *sizes[dim:]))


def _whole_batches(ctx: Context, value: Value, batch: range | list[int]) -> Value:
    """Unify (head, channel) labels to whole heads where the head is a batch dimension of the product."""
    fields = []
    for labels in ctx.norm(value).fields:
        over = varying(labels)
        in_batch = over & set(batch)
        if in_batch and over - in_batch:
            labels = ctx.coarsen(labels, over - in_batch)
        if in_batch:
            ctx.mark("head", labels)
        fields.append(labels)
    return ctx.norm(replace(value, fields=tuple(fields)))

"""Low-rank adapters beside a layer, as LoRA has them: ``base(x) + scale * up(down(x))``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .layers import Layer
from .program import DROPOUTS, IDENTITIES, Node, Program, Ref, references

__all__ = ["Adapter", "find_adapters"]

_PASSES = IDENTITIES | DROPOUTS


@dataclass(frozen=True)
class Adapter:
    """Three layers that are one linear map of what `base` and `down` read."""

    base: Layer
    down: Layer
    up: Layer
    scale: float
    join: str  # the addition


def find_adapters(program: Program, layers: Sequence[Layer]) -> tuple[Adapter, ...]:
    """Return the adapters of a program, in order.

    `down` reads what the base reads and makes fewer channels than either end has; nothing but `up` reads it, and
    what that makes is added to what the base makes, perhaps times a number.
    """
    by_node = {layer.node: layer for layer in layers}
    found = []
    for down in layers:
        reader, _ = _reader(program, down.node)
        up = by_node.get(reader.name) if reader is not None else None
        if (
            up is None
            or up.groups * down.groups > 1
            or any(n > 1 for n in up.taps)
            or up.stride != (1,) * len(up.taps)
        ):
            continue
        scale, (join, end) = 1.0, _reader(program, up.node)
        if join is not None and join.op == "mul" and isinstance(join.args[-1], int | float):
            scale, (join, end) = float(join.args[-1]), _reader(program, join.name)
        if join is None or join.op != "add" or join.kwargs:
            continue
        other = next((r for r in references(join.args[:2]) if r != end), None)
        base = _base(program, by_node, other, down)
        if base is not None and down.out_channels < min(base.in_channels, base.out_channels):
            found.append(Adapter(base, down, up, scale, join.name))
    return tuple(found)


def _base(program: Program, layers: Mapping[str, Layer], name: str | None, down: Layer) -> Layer | None:
    """Return the layer that reads the same as `down`, among those whose sum is a value."""
    if name is None:
        return None
    if name in layers:
        base = layers[name]
        window = (base.taps, base.stride, base.padding, base.dilation, base.groups)
        same = window == (down.taps, down.stride, down.padding, down.dilation, down.groups)
        return base if same and _origin(program, base.value) == _origin(program, down.value) else None
    node = program.node(name)
    if node.op != "add" or node.kwargs:
        return None
    return next(
        (b for r in references(node.args[:2]) if (b := _base(program, layers, r, down)) is not None), None
    )


def _origin(program: Program, name: str) -> str:
    """Return the value that one is, before casts and dropouts."""
    node = program.node(name)
    while node.op in _PASSES and node.args and isinstance(node.args[0], Ref):
        node = program.node(node.args[0].name)
    return node.name


def _reader(program: Program, name: str) -> tuple[Node | None, str]:
    """Return the only call that reads a value, casts and dropouts passed, and what it reads."""
    path = program.follow(name, _PASSES)
    return (path[-1], [name, *(node.name for node in path)][-2]) if path else (None, name)

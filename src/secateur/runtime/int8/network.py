"""Int8 layers in a compiled network: found by the levels in front of them, handing bytes on where all read bytes.

A quantised layer reads ``in_levels(x)`` in the exported graph. It becomes one call that reads `x` as bytes: made of
floats by the call itself, or by one step for all that read the value in these levels, or the very bytes that the layer
before has made, if nothing else reads what that makes. Max pooling in between stays in bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from secateur.ground.errors import KernelError
from secateur.ground.levels import Levels
from secateur.surgery.quantised import QuantisedConv2d, QuantisedLinear

from ..dense import ACTIVATIONS
from ..fuse import FusedLayer
from ..geometry import Window
from ..packing import Activation
from .chain import Int8Chain
from .levels import Int8Tensor
from .modules import Int8SparseConv2d, Int8SparseLinear
from .pool import Int8MaxPool2d

__all__ = [
    "Between",
    "Int8Call",
    "Int8Read",
    "Int8Row",
    "bytes_between",
    "insert_bytes",
    "int8_call",
    "levels_read",
    "make_rows",
]

CLAMPS = frozenset((Activation.NONE, Activation.RELU, Activation.RELU6))


def levels_read(node: Node) -> Levels | None:
    """Return the levels in which a node gives its input, if that is all that it does."""
    if node.target is not torch.ops.secateur.in_levels.default:
        return None
    _, scale, zero, most = node.args
    assert isinstance(scale, float)
    assert isinstance(zero, int)
    assert isinstance(most, int)
    return Levels(scale, zero, most)


class Int8Read(nn.Module):
    """Floats as bytes in given levels, for all layers that read them so."""

    def __init__(self, levels: Levels, images: bool) -> None:
        super().__init__()
        self.levels, self.images = levels, images

    def forward(self, x: Tensor) -> Int8Tensor:
        """Quantise."""
        return Int8Tensor.of_images(x, self.levels) if self.images else Int8Tensor.of_features(x, self.levels)


class Int8Call(nn.Module):
    """An int8 layer between floats, or bytes that others hand on; a residual sum is one of floats."""

    def __init__(
        self,
        layer: Int8SparseConv2d | Int8SparseLinear,
        activation: Activation,
        residual: bool,
        add_last: bool,
    ) -> None:
        super().__init__()
        self.layer, self.residual, self.add_last = layer, residual, add_last
        self.activation = activation if residual else Activation.NONE  # else it is the layer's own
        self.read = Int8Read(layer.x, isinstance(layer, Int8SparseConv2d))

    def forward(self, x: Tensor | Int8Tensor, residual: Tensor | None = None) -> Int8Tensor | Tensor:
        """Apply the layer, the residual sum and the activation."""
        return self.finished(self.layer(x if isinstance(x, Int8Tensor) else self.read(x)), residual)

    def finished(self, y: Tensor | Int8Tensor, residual: Tensor | None) -> Int8Tensor | Tensor:
        """Return what the layer has made with the residual sum and the activation behind it."""
        if residual is None or isinstance(y, Int8Tensor):
            return y
        active = ACTIVATIONS[self.activation]
        return active(y) + residual if self.add_last else active(y + residual)


class Int8Row(nn.Module):
    """Int8 calls and pools that hand bytes on to each other, as one call of the kernels (see `Int8Chain`)."""

    def __init__(self, steps: Sequence[Int8Call | Int8MaxPool2d]) -> None:
        super().__init__()
        first, last = steps[0], steps[-1]
        self.chain = Int8Chain(
            [step.layer if isinstance(step, Int8Call) else step for step in steps],
            [(i,) for i in range(len(steps))],
        )
        self.read = first.read if isinstance(first, Int8Call) else None
        self.last = last if isinstance(last, Int8Call) else None

    def forward(self, x: Tensor | Int8Tensor, residual: Tensor | None = None) -> Int8Tensor | Tensor:
        """Apply all layers, and the residual sum and the activation behind the last."""
        if not isinstance(x, Int8Tensor):
            assert self.read is not None
            x = self.read(x)
        y: Int8Tensor | Tensor = self.chain(x)
        return y if self.last is None else self.last.finished(y, residual)


def int8_call(model: nn.Module, layer: FusedLayer, y: Levels | None = None) -> Int8Call | None:
    """Return a layer of a network as an int8 call, to the levels `y`; None where it is not quantised, or is too large.

    Integers are those of the model's own layer. A norm behind it goes into the scales, a negative gain into the signs.
    """
    x = levels_read(layer.input)
    found = dict(model.named_modules()).get(layer.name)
    if x is None or not isinstance(found, QuantisedConv2d | QuantisedLinear) or found.group:
        return None
    integers, scales = found.integers(), found.weight_scales[:, 0].double()
    if layer.gain is not None:
        scales = scales * layer.gain.abs()
        signs = torch.where(layer.gain < 0, -1, 1).to(torch.int8)
        integers = integers * signs.reshape(-1, *[1] * (integers.dim() - 1))
        nothing = scales <= torch.finfo(torch.float32).tiny
        integers[nothing] = 0
        scales = torch.where(nothing, 1.0, scales)
    residual = layer.total is not None
    own = Activation.NONE if residual else layer.activation
    options: dict[str, Any] = {"x": x, "y": y, "bias": layer.bias, "activation": own}
    try:
        if layer.window is None:
            made: Any = Int8SparseLinear.of(integers, scales, **options)
        else:
            made = Int8SparseConv2d.of(integers, scales, layer.window, groups=layer.groups, **options)
    except KernelError:
        return None
    return Int8Call(made, layer.activation, residual, layer.add_last)


@dataclass(frozen=True)
class Between:
    """The levels in which a layer's output is handed on, and the max pooling that it passes on the way."""

    levels: Levels
    pool: Node | None = None


def bytes_between(
    layers: Sequence[FusedLayer], chosen: Collection[int], pools: Mapping[Node, Window]
) -> dict[int, Between]:
    """Return by number the chosen layers that can hand on bytes: every reader is a chosen layer, in the same levels."""
    images = {layers[i].node: layers[i].window is not None for i in chosen}
    found = {}
    for i in chosen:
        layer = layers[i]
        if layer.total is not None or layer.activation not in CLAMPS:
            continue
        pool = next((u for u in layer.last.users if u in pools), None) if len(layer.last.users) == 1 else None
        quantisers = list((pool or layer.last).users)
        levels = {levels_read(node) for node in quantisers}
        readers = {user for node in quantisers for user in node.users}
        if len(levels) == 1 and all(images.get(reader) is images[layer.node] for reader in readers):
            (one,) = levels
            if one is not None:
                found[i] = Between(one, pool)
    return found


def insert_bytes(
    module: GraphModule, model: nn.Module, layers: Sequence[FusedLayer], chosen: Sequence[int],
    pools: Mapping[Node, Window],
) -> dict[int, Int8Call]:  # fmt: skip
    """Put the chosen layers into a graph as int8 calls that hand on bytes where they can; return them by number."""
    between = bytes_between(layers, chosen, pools)
    made: dict[tuple[Node, Levels], Node] = {}  # what is there as bytes: of which value, in which levels
    calls = {}
    for i in chosen:
        layer = layers[i]
        levels, source = levels_read(layer.input), layer.input.args[0]
        assert levels is not None
        assert isinstance(source, Node)
        out = between.get(i)
        call = None if out is None else int8_call(model, layer, out.levels)
        if call is None:  # also where its sums could be too many steps of those levels
            out, call = None, int8_call(model, layer)
        assert call is not None
        if (source, levels) not in made:
            name = f"secateur_read_{i}"
            module.add_submodule(name, call.read)
            with module.graph.inserting_after(source):
                made[source, levels] = module.graph.call_module(name, (source,))
        inputs = (made[source, levels], *([layer.residual] if layer.residual is not None else []))
        module.add_submodule(f"secateur_int8_{i}", call)
        with module.graph.inserting_before(layer.last):
            node = module.graph.call_module(f"secateur_int8_{i}", inputs)
        node.meta = dict(layer.last.meta)
        calls[i] = call
        if out is None:
            layer.last.replace_all_uses_with(node)
        elif out.pool is None:
            made[layer.last, out.levels] = node
        else:
            name = f"secateur_int8_pool_{i}"
            module.add_submodule(name, Int8MaxPool2d(pools[out.pool]))
            with module.graph.inserting_before(out.pool):
                made[out.pool, out.levels] = module.graph.call_module(name, (node,))
    return calls


def make_rows(module: GraphModule) -> None:
    """Make one call of each row of int8 calls and pools of which each alone reads the bytes of the one before."""
    taken: set[Node] = set()
    for number, node in enumerate(list(module.graph.nodes)):
        if node in taken or _step(module, node) is None:
            continue
        row = [node]
        while (following := _only_reader(module, row[-1])) is not None:
            row.append(following)
        taken.update(row)
        if len(row) > 1:
            steps = [step for n in row if (step := _step(module, n)) is not None]
            name = f"secateur_row_{number}"
            module.add_submodule(name, Int8Row(steps))
            with module.graph.inserting_before(row[-1]):
                call = module.graph.call_module(name, (row[0].args[0], *row[-1].args[1:]))
            call.meta = dict(row[-1].meta)
            row[-1].replace_all_uses_with(call)


def _step(module: GraphModule, node: Node) -> Int8Call | Int8MaxPool2d | None:
    found = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return found if isinstance(found, Int8Call | Int8MaxPool2d) else None


def _only_reader(module: GraphModule, node: Node) -> Node | None:
    """Return the step that alone reads the bytes of a step, if one does."""
    step, users = _step(module, node), list(node.users)
    if len(users) != 1 or (isinstance(step, Int8Call) and step.layer.y is None):
        return None
    return users[0] if _step(module, users[0]) is not None and users[0].args[0] is node else None

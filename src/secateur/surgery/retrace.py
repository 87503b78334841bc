"""Make a module's forward from its traced calls, with the sizes that a selection leaves."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import Any

import torch
from torch import nn
from torch.fx import Graph as FxGraph
from torch.fx import GraphModule
from torch.fx import Node as FxNode

from secateur.ground.errors import SurgeryError

from .plan import Resize
from .region import Region
from .traced import TRAINING, Traced

__all__ = ["retraced"]

_FLAGS = {"dropout": 2, "alpha_dropout": 2, "feature_dropout": 2, "batch_norm": 5, "rrelu": 3}
"""Where operators take the flag of training."""


def retraced(region: Region, sizes: Iterable[Resize], device: torch.device) -> Traced:
    """Return a forward that makes the calls of a region, traced on `device`, on what its module holds when called.

    Raises:
        SurgeryError: a size that has to change is not where the plan says, or follows from no input.
    """
    wanted: dict[int, list[Resize]] = {}
    for size in sizes:
        wanted.setdefault(size.call, []).append(size)
    if not wanted.keys() <= set(range(len(region.nodes))):
        raise SurgeryError(
            f"{region.module or 'the model'} makes {len(region.nodes)} calls, the plan resizes others"
        )
    graph = FxGraph()
    flag, current = graph.placeholder(TRAINING), graph.placeholder("device")
    inputs = list(dict.fromkeys(leaf for leaf in region.leaves if isinstance(leaf, FxNode)))
    made: dict[FxNode, FxNode] = {}
    for source in (*region.tensors, *region.constants, *inputs):
        made[source] = graph.placeholder(source.name)
    anchor = _anchor(graph, inputs, made)

    def own(argument: Any) -> Any:
        if isinstance(argument, FxNode):
            return made[argument] if argument in made else anchor(argument)
        if isinstance(argument, torch.device):
            return current
        if isinstance(argument, dict):
            return {key: own(a) for key, a in argument.items()}
        if isinstance(argument, list | tuple):
            return type(argument)(own(a) for a in argument)
        return argument

    for i, node in enumerate(region.nodes):
        args = own(node.args)
        for size in wanted.get(i, ()):
            args = _resized(graph, args, size, node)
        args = _flagged(node, args, flag)
        made[node] = graph.call_function(node.target, args, own(node.kwargs))  # type: ignore[arg-type]
    graph.output(tuple(own(result) for result in region.results))
    first = [next(i for i, leaf in enumerate(region.leaves) if leaf is source) for source in inputs]
    return Traced(
        module=region.module,
        calls=GraphModule(nn.Module(), graph),
        tensors=tuple(region.tensors.values()),
        constants=tuple(region.constants.values()),
        device=device,
        inputs=tuple(first),
        fixed={i: leaf for i, leaf in enumerate(region.leaves) if not isinstance(leaf, FxNode)},
        takes=region.takes,
        returns=region.returns,
    )


def _anchor(
    graph: FxGraph, inputs: list[FxNode], made: Mapping[FxNode, FxNode]
) -> Callable[[FxNode], FxNode]:
    """Return a function that computes a symbolic size anew from dimensions of the inputs.

    Free are the batch size and lengths of sequences; most sizes are a multiple of one, the others sums and products.
    """
    bases = [
        (source, d, size.node.expr)
        for source in inputs
        if isinstance(source.meta.get("val"), torch.Tensor)
        for d, size in enumerate(source.meta["val"].shape)
        if isinstance(size, torch.SymInt) and size.node.expr.free_symbols
    ]
    sizes: dict[tuple[FxNode, int], FxNode] = {}
    known: dict[Any, FxNode] = {}

    def build(size: Any) -> FxNode | int | None:
        """Return the calls that compute an expression of symbols, or None if it follows from no input."""
        if size.is_Integer:
            return int(size)
        for source, d, base in bases:
            ratio = size / base
            if ratio.is_Rational:
                if (source, d) not in sizes:
                    sizes[source, d] = graph.call_function(torch.ops.aten.sym_size.int, (made[source], d))
                return _scaled(graph, sizes[source, d], int(ratio.p), int(ratio.q))
        if not (size.is_Add or size.is_Mul):
            return None
        parts = [build(part) for part in size.args]
        if any(part is None for part in parts):
            return None
        fold = operator.add if size.is_Add else operator.mul
        return reduce(lambda x, y: graph.call_function(fold, (x, y)), parts)

    def compute(node: FxNode) -> FxNode:
        value = node.meta.get("val")
        if not isinstance(value, torch.SymInt):
            raise SurgeryError(f"{node.name} is computed outside of the module that reads it")
        size = value.node.expr
        if size not in known:
            found = build(size)
            if not isinstance(found, FxNode):
                raise SurgeryError(f"the size {value} ({node.name}) follows from no input of the module")
            known[size] = found
        return known[size]

    return compute


def _scaled(graph: FxGraph, size: FxNode, up: int, down: int) -> FxNode:
    if up != 1:
        size = graph.call_function(operator.mul, (size, up))
    return graph.call_function(operator.floordiv, (size, down)) if down != 1 else size


def _resized(graph: FxGraph, args: tuple[Any, ...], size: Resize, node: FxNode) -> tuple[Any, ...]:
    def put(argument: Any, place: tuple[int, ...]) -> Any:
        if place:
            i, *rest = place
            if not isinstance(argument, list | tuple) or i >= len(argument):
                raise SurgeryError(f"call {node.name} has no argument {size.place}")
            return type(argument)((*argument[:i], put(argument[i], tuple(rest)), *argument[i + 1 :]))
        if isinstance(argument, FxNode):
            if min(size.old, size.new) < 1:
                raise SurgeryError(
                    f"argument {size.place} of {node.name} cannot go from {size.old} to {size.new}"
                )
            common = math.gcd(size.old, size.new)
            return _scaled(graph, argument, size.new // common, size.old // common)
        if argument != size.old:
            raise SurgeryError(f"argument {size.place} of {node.name} is {argument}, not {size.old}")
        return size.new

    changed: tuple[Any, ...] = put(args, size.place)
    return changed


def _flagged(node: FxNode, args: tuple[Any, ...], flag: FxNode) -> tuple[Any, ...]:
    target = node.target
    name = (
        target._schema.name.split("::")[-1].rstrip("_") if isinstance(target, torch._ops.OpOverload) else ""
    )
    at = _FLAGS.get(name)
    if at is None or at >= len(args) or args[at] is not False:
        return args
    if name == "batch_norm" and args[3] is None:
        return args
    return (*args[:at], flag, *args[at + 1 :])

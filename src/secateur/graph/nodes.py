"""The calls of an exported program as plain data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx import Node as FxNode

from .flat import flat
from .program import Node, Ref, Shape
from .refusal import source_line
from .sizes import Sizes

__all__ = ["plain_nodes"]

Number = Callable[[int | torch.SymInt], int]


def plain_nodes(module: GraphModule, sizes: Sizes) -> Iterator[Node]:
    """Yield the calls in order, with the shapes that they have in the example and for one sample."""
    names = flat(module)

    def plain(argument: Any) -> Any:
        if isinstance(argument, FxNode):
            return Ref(names[argument])
        if isinstance(argument, dict):
            return {key: plain(a) for key, a in argument.items()}
        if isinstance(argument, (list, tuple)):
            return tuple(plain(a) for a in argument)
        if isinstance(argument, slice):
            return slice(plain(argument.start), plain(argument.stop), plain(argument.step))
        return argument

    for node, name in names.items():
        value = node.meta.get("val")
        sizes.learn(node)
        # torch marks calls that it added itself by a stack with this one made-up entry.
        frames = node.meta.get("nn_module_stack") or {}
        stack = [frame for frame in frames.values() if not str(frame[0]).startswith("_empty_nn_module_stack")]
        path, kind = stack[-1] if stack else ("", "")
        yield Node(
            name=name,
            op=_family(node),
            overload=str(node.target),
            args=plain(node.args),
            kwargs=plain(node.kwargs),
            shape=_shape(value, sizes.example),
            alone=_shape(value, sizes.alone),
            hint=_hint(value, sizes.example),
            hint_alone=_hint(value, sizes.alone),
            module=path,
            module_type=kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}",
            source=source_line(node.meta.get("stack_trace")),
            floating=isinstance(value, Tensor) and value.dtype.is_floating_point,
            boolean=isinstance(value, Tensor) and value.dtype == torch.bool,
        )


def _family(node: FxNode) -> str:
    if node.op != "call_function":
        return node.op
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        name = target._schema.name.split("::")[-1]
        namespace = target.namespace
        if namespace != "aten":
            return f"{namespace}.{name}"
    else:
        name = getattr(target, "__name__", str(target))
    return name if name.startswith("_") else name.rstrip("_")


def _shape(value: Any, number: Number) -> Shape | tuple[Shape | None, ...] | None:
    if isinstance(value, (list, tuple)):
        return tuple(_tensor_shape(v, number) for v in value)
    return _tensor_shape(value, number)


def _tensor_shape(value: Any, number: Number) -> Shape | None:
    return tuple(number(n) for n in value.shape) if isinstance(value, Tensor) else None


def _hint(value: Any, number: Number) -> int | None:
    return number(value) if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool) else None

"""Program: an exported model as plain data, so that nothing above needs to know torch.fx."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch.export import ExportedProgram

__all__ = ["Node", "Program", "Ref", "Shape", "references"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Ref:
    """The output of another node, where it stands as an argument."""

    name: str


@dataclass(frozen=True)
class Node:
    """One call, placeholder or output of the program."""

    name: str  # names inside an inlined sub-graph begin with the calling node's name and a slash
    op: str  # operator family without overload and without trailing underscore; "placeholder", "output"
    overload: str  # the full target, for instance "aten.add_.Tensor"
    args: tuple[Any, ...]  # numbers, strings, dtypes, and Ref for other nodes; nested in tuples
    kwargs: Mapping[str, Any]
    shape: Shape | tuple[Shape | None, ...] | None  # several shapes for an operator with several outputs
    hint: int | None = None  # the value of a symbolic size, for the example that was traced
    module: str = ""  # path of the module whose forward made the call
    module_type: str = ""  # its class, with the package
    source: str = ""  # file:line in the model's code
    floating: bool = False  # its dtype is a floating one

    @property
    def writes(self) -> bool:
        """Whether the call writes into its first argument, as operators with a trailing underscore do."""
        name = self.overload.split(".")[1] if self.overload.startswith("aten.") else ""
        return name.endswith("_") and not name.endswith("__")

    def tensor_shape(self) -> Shape:
        """Return the shape of an operator with one output.

        Raises:
            ValueError: it has none or several.
        """
        if self.shape is None or any(not isinstance(n, int) for n in self.shape):
            raise ValueError(f"{self.name} has not exactly one tensor output")
        return self.shape  # type: ignore[return-value]


@dataclass(frozen=True)
class Program:
    """The nodes of an exported model in order, and which tensors of the model its placeholders are."""

    nodes: tuple[Node, ...]
    parameters: Mapping[str, tuple[str, ...]]  # placeholder -> all names of the tensor, the canonical first
    buffers: frozenset[str]  # canonical names of those that are buffers
    shared: frozenset[str]  # canonical names whose memory overlaps that of another tensor of another form
    shapes: Mapping[str, Shape]  # of every parameter and buffer, by canonical name
    batch: int  # size of dimension 0 in the example that was traced
    dynamic: bool  # the batch size is free
    exported: ExportedProgram = field(compare=False, repr=False)

    def node(self, name: str) -> Node:
        """Return the node of that name.

        Raises:
            KeyError: there is none.
        """
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}


def references(argument: Any) -> list[str]:
    """Return the names of all nodes that an argument refers to, in order.

    >>> references((Ref("a"), 3, (Ref("b"),)))
    ['a', 'b']
    """
    if isinstance(argument, Ref):
        return [argument.name]
    if isinstance(argument, Mapping):
        argument = tuple(argument.values())
    if isinstance(argument, (list, tuple)):
        return [name for a in argument for name in references(a)]
    return []

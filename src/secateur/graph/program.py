"""Program: an exported model as plain data, so that nothing above needs to know torch.fx."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from .flat import flat

__all__ = ["DROPOUTS", "IDENTITIES", "Node", "Program", "Ref", "Shape", "put", "references"]

Shape = tuple[int, ...]

IDENTITIES = frozenset({"alias", "clone", "contiguous", "detach", "lift_fresh_copy", "to", "_to_copy"})
"""Operators that hand on the values of their first argument, perhaps in another type or layout."""

DROPOUTS = frozenset({"dropout", "alpha_dropout", "feature_dropout"})
"""Operators that do so in evaluation."""


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
    alone: Shape | tuple[Shape | None, ...] | None = None  # its shape for a batch of one sample
    hint: int | None = None  # the value of a symbolic size, for the example that was traced
    hint_alone: int | None = None  # that value for a batch of one sample
    module: str = ""  # path of the module whose forward made the call
    module_type: str = ""  # its class, with the package
    source: str = ""  # file:line in the model's code
    floating: bool = False  # its dtype is a floating one
    boolean: bool = False

    @property
    def writes(self) -> bool:
        """Whether the call writes into its first argument, as operators with a trailing underscore do."""
        name = self.overload.split(".")[1] if self.overload.startswith("aten.") else ""
        return name.endswith("_") and not name.endswith("__")

    def carries(self, dim: int) -> bool:
        """Whether a dimension of its output, which is one tensor, grows with the batch."""
        return self.shape is not None and self.alone is not None and self.shape[dim] != self.alone[dim]

    def sizes(self) -> tuple[Shape, Shape]:
        """Return the shape of an operator with one output, and that for a batch of one sample.

        Raises:
            ValueError: it has none or several.
        """
        assert self.alone is not None
        return self.tensor_shape(), self.alone  # type: ignore[return-value]

    def tensor_shape(self) -> Shape:
        """Return the shape of an operator with one output.

        Raises:
            ValueError: it has none or several.
        """
        if self.shape is None or self.several is not None:
            raise ValueError(f"{self.name} has not exactly one tensor output")
        return self.shape  # type: ignore[return-value]

    @property
    def several(self) -> tuple[Shape | None, ...] | None:
        """The shapes of an operator with several outputs; None for one with one or none."""
        one = self.shape is None or all(isinstance(n, int) for n in self.shape)
        return None if one else self.shape  # type: ignore[return-value]


@dataclass(frozen=True)
class Program:
    """The nodes of an exported model in order, and which tensors of the model its placeholders are."""

    nodes: tuple[Node, ...]
    parameters: Mapping[str, tuple[str, ...]]  # placeholder -> all names of the tensor, the canonical first
    buffers: frozenset[str]  # canonical names of those that are buffers
    shared: frozenset[str]  # canonical names whose memory overlaps that of another tensor of another form
    shapes: Mapping[str, Shape]  # of every parameter and buffer, by canonical name
    batch: int  # samples in the example that was traced; 1 where no dimension of the inputs counts samples
    dynamic: bool  # the batch size is free, or there is no batch
    batch_dims: tuple[
        int | None, ...
    ]  # by input, those in containers one by one: which dimension counts samples
    free: tuple[frozenset[int], ...]  # by input: the dimensions that may have any size
    exported: ExportedProgram = field(compare=False, repr=False)

    @property
    def example(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and the keyword inputs that were traced."""
        args, kwargs = self.exported.example_inputs or ((), {})
        return tuple(args), dict(kwargs)

    @property
    def batch_first(self) -> bool:
        """Whether samples are known to lie along dimension 0 of the inputs, and so of what is made of them."""
        return self.dynamic and {d for d in self.batch_dims if d is not None} == {0}

    @property
    def held(self) -> int:
        """How many samples there are in `Node.alone`: one, or all where the code fixes the size of the batch."""
        return 1 if self.dynamic else self.batch

    @cached_property
    def fx_names(self) -> Mapping[FxNode, str]:
        """torch's own nodes of the calls, and the names that they have here."""
        return flat(self.exported.graph_module)

    def takes(self, tensors: Mapping[str, Tensor], inputs: Any) -> list[Any]:
        """Return what the exported graph is run on: tensors by canonical name, its own constants, and inputs."""
        given = iter(pytree.tree_leaves(inputs))
        own = {**self.exported.state_dict, **self.exported.constants}
        values = []
        for spec in self.exported.graph_signature.input_specs:
            if spec.kind is InputKind.USER_INPUT:
                values.append(next(given))
            else:
                name = self.parameters.get(spec.arg.name, (str(spec.target),))[0]
                values.append(tensors[name] if name in tensors else own[str(spec.target)])
        return values

    def node(self, name: str) -> Node:
        """Return the node of that name.

        Raises:
            KeyError: there is none.
        """
        return self._by_name[name]

    @cached_property
    def users(self) -> Mapping[str, tuple[Node, ...]]:
        """The calls that read the output of each node, in order."""
        users: dict[str, tuple[Node, ...]] = {node.name: () for node in self.nodes}
        for node in self.nodes:
            for name in dict.fromkeys(references((node.args, node.kwargs))):
                users[name] = (*users[name], node)
        return users

    def follow(self, name: str, passes: Collection[str]) -> tuple[Node, ...]:
        """Return the calls that a value goes through while each is the only reader: `passes`, then one that is none.

        Nothing where several calls read it before there is such a one.
        """
        path: list[Node] = []
        while len(users := self.users[name]) == 1:
            path += users
            name = users[0].name
            if users[0].op not in passes:
                return tuple(path)
        return ()

    @cached_property
    def readers(self) -> Mapping[str, set[str]]:
        """Parameter or buffer, by canonical name -> the calls that read it, under any of its names."""
        readers: dict[str, set[str]] = {}
        for placeholder, names in self.parameters.items():
            readers.setdefault(names[0], set()).update(n.name for n in self.users[placeholder])
        return readers

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}


def put(argument: Any, value: Callable[[str], Any]) -> Any:
    """Return an argument with the value of each node in place of every reference to it."""
    if isinstance(argument, Ref):
        return value(argument.name)
    if isinstance(argument, Mapping):
        return {key: put(a, value) for key, a in argument.items()}
    return tuple(put(a, value) for a in argument) if isinstance(argument, tuple) else argument


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

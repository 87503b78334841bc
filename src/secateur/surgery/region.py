"""The calls that one module makes, cut out of the exported program of its model."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from secateur.graph.export import export_program
from secateur.graph.program import Program
from secateur.ground.errors import SurgeryError

__all__ = ["Region", "find_region", "with_export"]

T = TypeVar("T")


@dataclass(frozen=True)
class Region:
    """The calls of a module in order, and what goes in and comes out; nodes are those of the exported graph."""

    module: str
    nodes: tuple[FxNode, ...]  # tensor calls; those that only compute sizes are left out
    leaves: tuple[Any, ...]  # of the arguments: a node, or a plain value
    results: tuple[Any, ...]
    takes: pytree.TreeSpec
    returns: pytree.TreeSpec
    tensors: Mapping[FxNode, str]  # parameters and buffers that the calls read, by their name in the module
    constants: Mapping[FxNode, Tensor]  # tensors that the code makes from plain values

    @property
    def digest(self) -> str:
        """A hash over the calls, how they are connected, their plain arguments and their shapes."""
        numbers: dict[FxNode, str] = {n: f"i{i}" for i, n in enumerate(self.leaves) if isinstance(n, FxNode)}
        numbers |= self.tensors
        numbers |= {n: f"c{i}" for i, n in enumerate(self.constants)}
        lines = [repr(self.takes), repr(self.returns)]
        for i, node in enumerate(self.nodes):
            numbers[node] = f"n{i}"
            lines.append(f"{node.target} {_text(node.args, numbers)} {_text(node.kwargs, numbers)}")
        lines.append(_text(self.results, numbers))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def with_export(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    modules: Iterable[str],
    use: Callable[[Program], T],
    batch_dims: tuple[int | None, ...] | None = None,
) -> T:
    """Return what is made of an export that says what these modules take and return.

    Lengths of sequences are free in it; where that cannot be used, in the next one they are not.

    `batch_dims` says of each input which dimension counts samples; without it they are found.

    Raises:
        SurgeryError: neither can be used.
        TraceError: the model cannot be exported.
    """
    calls = tuple(modules)
    if any(isinstance(leaf, Tensor) and 1 < leaf.ndim <= 3 for leaf in pytree.tree_leaves((args, kwargs))):
        free = export_program(model, args, kwargs, calls, batch_dims=batch_dims, lengths=True)
        with contextlib.suppress(SurgeryError):
            if free.dynamic:
                return use(free)
    return use(export_program(model, args, kwargs, calls, batch_dims=batch_dims))


def find_region(program: Program, module: str) -> Region:
    """Return the calls of a module, of a program that was exported with what this module takes and returns.

    Raises:
        SurgeryError: the calls of the module cannot be told from those of others; the message says why.
    """
    exported = program.exported
    entries = [e for e in exported.module_call_graph if e.fqn.partition("@")[0] == module and e.signature]
    if len(entries) != 1:
        raise SurgeryError(f"{module or 'the model'} is called {len(entries)} times, not once")
    signature = entries[0].signature
    assert signature is not None
    by_name = {node.name: node for node in exported.graph.nodes}

    def plain(argument: Any) -> Any:
        if isinstance(argument, ConstantArgument):
            return argument.value
        if getattr(argument, "name", None) in by_name:
            return by_name[argument.name]
        raise SurgeryError(f"{module} takes or returns a {type(argument).__name__}, which cannot be traced")

    takes, gives = signature.inputs, signature.outputs
    if not module:  # torch lists those of the whole model elsewhere
        specs = exported.graph_signature
        takes = [s.arg for s in specs.input_specs if s.kind is InputKind.USER_INPUT]
        gives = [s.arg for s in specs.output_specs if s.kind is OutputKind.USER_OUTPUT]
    leaves = tuple(plain(a) for a in takes)
    results = tuple(plain(a) for a in gives)
    inside = [n for n in exported.graph.nodes if n.op == "call_function" and _within(n, module)]
    nodes = tuple(n for n in inside if not _is_size(n) and n not in leaves)
    tensors, constants = _outside(program, module, nodes, {*leaves, *nodes})
    for result in results:
        if isinstance(result, FxNode) and result not in {*leaves, *nodes, *tensors} and not _is_size(result):
            raise SurgeryError(f"{module} returns {result.name}, which it has not made")
    return Region(module, nodes, leaves, results, signature.in_spec, signature.out_spec, tensors, constants)


def _within(node: FxNode, module: str) -> bool:
    frames = (node.meta.get("nn_module_stack") or {}).values()
    paths = [str(frame[0]).partition("@")[0] for frame in frames]
    return not module or any(p == module or p.startswith(f"{module}.") for p in paths)


def _is_size(node: FxNode) -> bool:
    return isinstance(node.meta.get("val"), int | torch.SymInt | torch.SymBool | torch.SymFloat)


def _outside(
    program: Program, module: str, nodes: Sequence[FxNode], known: set[Any]
) -> tuple[dict[FxNode, str], dict[FxNode, Tensor]]:
    """Return the parameters and constants that calls read though nobody hands them to the module."""
    exported = program.exported
    targets = {s.arg.name: (s.kind, s.target) for s in exported.graph_signature.input_specs}
    tensors: dict[FxNode, str] = {}
    constants: dict[FxNode, Tensor] = {}
    for node in nodes:
        for source in node.all_input_nodes:
            if source in known or source in tensors or source in constants or _is_size(source):
                continue
            kind, target = targets.get(source.name, (None, None))
            if source.op == "get_attr":
                raise SurgeryError(f"{module} calls {node.name}, which holds calls of its own")
            if kind in (InputKind.PARAMETER, InputKind.BUFFER) and source.name in program.parameters:
                tensors[source] = _local(program.parameters[source.name], module)
            elif kind is InputKind.CONSTANT_TENSOR or kind is InputKind.BUFFER:
                constants[source] = _constant(exported, str(target))
            else:
                raise SurgeryError(f"{module} reads {source.name}, which is not among its arguments")
    return tensors, constants


def _local(names: Sequence[str], module: str) -> str:
    for name in names:
        if not module or name.startswith(f"{module}."):
            return name[len(module) + 1 :] if module else name
    raise SurgeryError(f"{module} reads {names[0]}, which belongs to another module")


def _constant(exported: ExportedProgram, target: str) -> Tensor:
    found = exported.constants.get(target)
    if not isinstance(found, Tensor):
        raise SurgeryError(f"the constant {target} is not a tensor")
    return found


def _text(argument: Any, numbers: Mapping[FxNode, str]) -> str:
    """Write an argument; symbolic sizes as the size that they had, devices not at all."""
    if isinstance(argument, FxNode):
        if argument in numbers:
            return numbers[argument]
        value = argument.meta.get("val")
        return str(value.node.hint if isinstance(value, torch.SymInt) else value)
    if isinstance(argument, Mapping):
        return (
            "{" + ", ".join(f"{k}: {_text(v, numbers)}" for k, v in argument.items() if k != "device") + "}"
        )
    if isinstance(argument, list | tuple):
        return "[" + ", ".join(_text(a, numbers) for a in argument) + "]"
    return str(argument)

"""Running the traced program with other parameter values, and watching values as they pass."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from secateur.graph import Program
from secateur.graph.flat import flat
from secateur.graph.program import references
from secateur.ground.errors import CalibrationError
from secateur.ground.inputs import types_told

__all__ = ["Forward", "Normalise", "Paused", "Watch", "state_tensors"]

Watch = Callable[[tuple[Any, ...], Any], tuple[Any, ...] | None]
"""Called with a node's arguments (before it runs in place on them), which it may replace, or its result."""


def state_tensors(program: Program) -> dict[str, Tensor]:
    """Return the dense values of all parameters and buffers, by canonical name."""
    exported = program.exported
    values = {**exported.constants, **exported.state_dict}
    names = {names[0] for names in program.parameters.values()}
    return {name: values[name].detach() for name in names if isinstance(values.get(name), Tensor)}


Normalise = Callable[[str, Tensor, Tensor, int], None]
"""Called with a BatchNorm node, the mean and the (biased) variance of its input by channel, and their count."""


@dataclass(frozen=True)
class Paused:
    """A run over one batch that has stopped on the way: flat inputs, the values that are still read, the last node."""

    inputs: list[Any]
    values: Mapping[str, Any] = field(default_factory=dict)
    after: str | None = None


class Forward:
    """Runs a program batch by batch with given tensors.

    `reads` maps node names to callbacks that get the node's arguments just before it runs, and may return others;
    `makes` maps node names to callbacks that get its result. A run ends once the last watched node has run. With
    `gradients`, results can be differentiated with respect to tensors, or to what callbacks return. Maps of two
    dimensions are laid out channels last where the program's own calls allow it: convolutions then run several times
    as fast on CPUs. Tensors may have other sizes than the program's own: `arguments` are then the positional arguments
    of calls, by name, that are to say other numbers.
    """

    def __init__(
        self,
        program: Program,
        tensors: Mapping[str, Tensor],
        *,
        gradients: bool = False,
        arguments: Mapping[str, tuple[Any, ...]] | None = None,
    ) -> None:
        self._gradients = gradients
        self._module = program.exported.graph_module
        self._names = flat(self._module)
        self._nodes = list(self._names)
        self._args = {
            node: _resized(node.args, (arguments or {}).get(name, ())) for node, name in self._names.items()
        }
        self._place = {name: i for i, name in enumerate(self._names.values())}
        self._last_used = _last_used(self._nodes)
        self._signature = program.exported.graph_signature
        self._layout = torch.channels_last if _any_layout(program) else torch.contiguous_format
        laid_out = {name: self._laid_out(tensor) for name, tensor in tensors.items()}
        others = {**program.exported.state_dict, **program.exported.constants}
        canonical = {placeholder: names[0] for placeholder, names in program.parameters.items()}
        self._fixed: dict[str, Any] = {}
        self._inputs: list[str] = []
        holes = (node for node in self._nodes if node.op == "placeholder")
        for hole, spec in zip(holes, self._signature.input_specs, strict=True):
            if spec.kind.name == "USER_INPUT":
                self._inputs.append(hole.name)
            else:
                name = canonical.get(self._names[hole], spec.target)
                self._fixed[hole.name] = laid_out[name] if name in laid_out else others[spec.target]  # pyright: ignore[reportArgumentType]

    @property
    def order(self) -> list[str]:
        """The names of all nodes, as they run."""
        return list(self._names.values())

    def run(
        self,
        inputs: list[Any],
        reads: Mapping[str, Watch],
        makes: Mapping[str, Watch],
        *,
        whole: bool = False,
        normalise: Normalise | None = None,
    ) -> list[Any] | None:
        """Run one batch of flat inputs; return the program's flat outputs if `whole`, else None.

        With `normalise`, BatchNorms use the mean and variance of the batch, which the callback is told.
        """
        last = max((self._place.get(name, -1) for name in {*reads, *makes}), default=-1)
        stop = len(self._nodes) if whole else last + 1
        mode = torch.enable_grad() if self._gradients else torch.inference_mode()
        with mode, types_told(inputs, CalibrationError):
            values = self._walk(inputs, {}, 0, stop, reads, makes, normalise)
        if not whole:
            return None
        [result] = values.values()  # of the output, for which all others are gone
        return [
            value
            for value, spec in zip(result, self._signature.output_specs, strict=True)
            if spec.kind.name == "USER_OUTPUT"
        ]

    def advance(
        self,
        paused: Paused,
        reads: Mapping[str, Watch],
        makes: Mapping[str, Watch],
        until: str,
        without: Collection[str] = (),
    ) -> Paused:
        """Run a batch on, from where it stopped to the node `until`, that included; what it gives goes on from there.

        Values that writes have changed in place belong to what is returned: `paused` cannot go on twice. Nodes
        `without` are watched and not run, nor is what depends on them: None stands for their values, and what is
        returned cannot go on.
        """
        start = self._place[paused.after] + 1 if paused.after is not None else 0
        with torch.inference_mode():
            stop = self._place[until] + 1
            values = self._walk(paused.inputs, paused.values, start, stop, reads, makes, None, without)
        return Paused(paused.inputs, values, until)

    def _walk(
        self,
        inputs: list[Any],
        before: Mapping[str, Any],
        start: int,
        stop: int,
        reads: Mapping[str, Watch],
        makes: Mapping[str, Watch],
        normalise: Normalise | None = None,
        without: Collection[str] = (),
    ) -> dict[str, Any]:
        """Run the nodes from place `start` to `stop`; return what those behind still read, placeholders left out."""
        given = self._fixed | dict(zip(self._inputs, map(self._laid_out, inputs), strict=True))
        values = dict(before)
        missing: set[str] = set()

        def value(node: fx.Node) -> Any:
            return given[node.name] if node.op == "placeholder" else values[node.name]

        for place in range(start, stop):
            node = self._nodes[place]
            if node.op == "placeholder":
                continue
            if node.op == "get_attr":
                values[node.name] = operator.attrgetter(str(node.target))(self._module)
            elif node.op == "output":
                values[node.name] = fx.map_arg(node.args[0], value)
            else:
                args, kwargs = fx.map_arg(self._args[node], value), fx.map_arg(node.kwargs, value)
                name = self._names[node]
                read, make = reads.get(name), makes.get(name)
                args = (read(args, None) if read is not None else None) or args
                if without and (
                    name in without or missing.intersection(n.name for n in node.all_input_nodes)
                ):
                    result = None
                    missing.add(node.name)
                elif normalise is not None and node.target is torch.ops.aten.batch_norm.default:
                    result = _batch_normalised(name, args, normalise)
                else:
                    result = node.target(*args, **kwargs)  # type: ignore[operator]
                if make is not None:
                    make((), result)
                values[node.name] = result
            for gone in self._last_used[place]:
                values.pop(gone, None)
        return values

    def _laid_out(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim == 4:
            return value.contiguous(memory_format=self._layout)
        return value


def _resized(own: Any, other: Any) -> Any:
    """Return the arguments of a call with the other ones' whole numbers; values of other calls stay."""
    if isinstance(own, list | tuple) and isinstance(other, tuple) and len(own) == len(other):
        return type(own)([_resized(a, b) for a, b in zip(own, other, strict=True)])
    return other if type(own) is int and type(other) is int else own


def _any_layout(program: Program) -> bool:
    """Say whether convolutions are there, and nothing that only some memory layouts allow."""
    four = {n.name for n in program.nodes if isinstance(n.shape, tuple) and len(n.shape) == 4}
    views = (n for n in program.nodes if n.op in {"view", "view_as", "as_strided", "unflatten"})
    return any(n.op == "conv2d" for n in program.nodes) and not any(
        n.name in four or four.intersection(references(n.args)) for n in views
    )


def _last_used(nodes: Sequence[fx.Node]) -> list[list[str]]:
    """Return by place the nodes whose values nothing behind it reads, so that they can go."""
    last = {}
    for place, node in enumerate(nodes):
        last[node.name] = place
        for read in node.all_input_nodes:
            last[read.name] = place
    gone: list[list[str]] = [[] for _ in nodes]
    for node in nodes:
        if node.op not in ("placeholder", "output"):
            gone[last[node.name]].append(node.name)
    return gone


def _batch_normalised(name: str, args: tuple[Any, ...], normalise: Normalise) -> Tensor:
    x, weight, bias, _, _, _, _, eps = args[:8]
    dims = [d for d in range(x.ndim) if d != 1]
    mean, variance = x.mean(dims), x.var(dims, unbiased=False)
    normalise(name, mean, variance, x.numel() // x.shape[1])
    return torch.nn.functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

"""Running the traced program with other parameter values, and watching values as they pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from secateur.graph import Program
from secateur.graph.program import references

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


class _Stop(Exception):  # noqa: N818 - a signal, not an error
    """Everything that was watched has been seen."""


class Forward:
    """Runs a program batch by batch with given tensors.

    `reads` maps node names to callbacks that get the node's arguments just before it runs, and may return others;
    `makes` maps node names to callbacks that get its result. A run ends once the last watched node has run. With
    `gradients`, results can be differentiated with respect to tensors, or to what callbacks return. Maps of two
    dimensions are laid out channels last where the program's own calls allow it: convolutions then run several times
    as fast on CPUs.
    """

    def __init__(self, program: Program, tensors: Mapping[str, Tensor], *, gradients: bool = False) -> None:
        self._gradients = gradients
        self._graph = program.exported.graph_module
        self._signature = program.exported.graph_signature
        self._layout = torch.channels_last if _any_layout(program) else torch.contiguous_format
        self._tensors = {name: self._laid_out(tensor) for name, tensor in tensors.items()}
        self._canonical = {placeholder: names[0] for placeholder, names in program.parameters.items()}
        self._others = {**program.exported.state_dict, **program.exported.constants}

    @property
    def order(self) -> list[str]:
        """The names of all nodes, as they run."""
        return [node.name for node in self._graph.graph.nodes]

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
        values = self._arguments(inputs)
        watched = set(reads) | set(makes)
        last = next((n.name for n in reversed(self._graph.graph.nodes) if n.name in watched), None)
        with torch.enable_grad() if self._gradients else torch.inference_mode():
            try:
                result = _Interpreter(self._graph, reads, makes, None if whole else last, normalise).run(
                    *values
                )
            except _Stop:
                return None
        return [
            value
            for value, spec in zip(result, self._signature.output_specs, strict=True)
            if spec.kind.name == "USER_OUTPUT"
        ]

    def advance(
        self, paused: Paused, reads: Mapping[str, Watch], makes: Mapping[str, Watch], until: str
    ) -> Paused:
        """Run a batch on, from where it stopped to the node `until`, that included; what it gives goes on from there.

        Values that writes have changed in place belong to what is returned: `paused` cannot go on twice.
        """
        nodes = list(self._graph.graph.nodes)
        place = {node.name: i for i, node in enumerate(nodes)}
        done = nodes[: place[paused.after] + 1] if paused.after is not None else []
        env: dict[fx.Node, Any] = {n: paused.values.get(n.name) for n in done if n.op != "placeholder"}
        stop = nodes[place[until] + 1].name  # the output is behind every other node
        interpreter = _Interpreter(self._graph, reads, makes, None, None, stop)
        with torch.inference_mode(), suppress(_Stop):
            interpreter.run(*self._arguments(paused.inputs), initial_env=env)
        live = {n.name: v for n, v in interpreter.env.items() if n.op != "placeholder" and v is not None}
        return Paused(paused.inputs, live, until)

    def _arguments(self, inputs: list[Any]) -> list[Any]:
        """Return the values of all placeholders."""
        given = iter(inputs)
        values = []
        for spec in self._signature.input_specs:
            if spec.kind.name == "USER_INPUT":
                values.append(self._laid_out(next(given)))
                continue
            name = self._canonical.get(spec.arg.name, spec.target)
            values.append(self._tensors[name] if name in self._tensors else self._others[spec.target])
        return values

    def _laid_out(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim == 4:
            return value.contiguous(memory_format=self._layout)
        return value


def _any_layout(program: Program) -> bool:
    """Say whether convolutions are there, and nothing that only some memory layouts allow."""
    four = {n.name for n in program.nodes if isinstance(n.shape, tuple) and len(n.shape) == 4}
    views = (n for n in program.nodes if n.op in {"view", "view_as", "as_strided", "unflatten"})
    return any(n.op == "conv2d" for n in program.nodes) and not any(
        n.name in four or four.intersection(references(n.args)) for n in views
    )


class _Interpreter(fx.Interpreter):
    def __init__(
        self,
        graph: fx.GraphModule,
        reads: Mapping[str, Watch],
        makes: Mapping[str, Watch],
        last: str | None,
        normalise: Normalise | None,
        stop: str | None = None,
    ) -> None:
        super().__init__(graph)
        self._reads, self._makes, self._last, self._normalise = reads, makes, last, normalise
        self._stop = stop  # the node in front of which the run ends

    def run_node(self, n: fx.Node) -> Any:
        if n.name == self._stop:
            raise _Stop
        read = self._reads.get(n.name)
        others = None
        if read is not None:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            others = read(args, None)
        if others is not None:
            result = self.call_function(n.target, others, kwargs)
        elif self._normalise is not None and n.target is torch.ops.aten.batch_norm.default:
            args, _ = self.fetch_args_kwargs_from_env(n)
            result = _batch_normalised(n.name, args, self._normalise)
        else:
            result = super().run_node(n)
        make = self._makes.get(n.name)
        if make is not None:
            make((), result)
        if n.name == self._last:
            raise _Stop
        return result


def _batch_normalised(name: str, args: tuple[Any, ...], normalise: Normalise) -> Tensor:
    x, weight, bias, _, _, _, _, eps = args[:8]
    dims = [d for d in range(x.ndim) if d != 1]
    mean, variance = x.mean(dims), x.var(dims, unbiased=False)
    normalise(name, mean, variance, x.numel() // x.shape[1])
    return torch.nn.functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

"""Which layers of a network can be quantised, and why the others stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.blocks import UNIFY, BlockPattern
from secateur.graph import Graph, Layer
from secateur.ground.inputs import Inputs
from secateur.ground.modes import evaluating
from secateur.ground.patterns import matches
from secateur.ground.tensors import tensor_names
from secateur.surgery.quantised import QuantisedConv2d, QuantisedLinear, misfit

__all__ = ["Quantisable", "quantisable"]


@dataclass(frozen=True)
class Quantisable:
    """The layers that can be quantised, in order, and by module why others stay float."""

    layers: Sequence[Layer]
    skipped: Mapping[str, str]


def quantisable(
    model: nn.Module,
    graph: Graph,
    inputs: Inputs,
    *,
    skip: Iterable[str] = (),
    patterns: Mapping[str, BlockPattern] | None = None,
    widest: int = 5120,
    kinds: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv2d),
    dtypes: tuple[torch.dtype, ...] = (torch.float32,),
) -> Quantisable:
    """Return the linear layers and convolutions of a model that can be quantised; `skip` are globs of modules.

    A layer is taken if its module is one of torch's own, called once, with a weight on the CPU, of one of the `dtypes`,
    that is its alone, and if an output reads at most `widest` numbers: moments have as many rows and columns.
    """
    modules = dict(model.named_modules())
    calls = _calls(model, inputs)
    tied = {name for names in tensor_names(model) if len(names) > 1 for name in names}
    counted = [layer.module for layer in graph.layers]
    layers, skipped = [], dict[str, str]()

    def why(layer: Layer) -> str:
        module = modules.get(layer.module)
        if module is None:
            return "it is no module"
        if any(matches(model, layer.module, glob) for glob in skip):
            return "skip names it"
        if isinstance(module, QuantisedLinear | QuantisedConv2d):
            return "it is quantised already"
        if reason := misfit(module):
            return reason
        if not isinstance(module, kinds):
            return (
                f"it is a {type(module).__name__}, and only {', '.join(k.__name__ for k in kinds)} are wanted"
            )
        name = f"{layer.module}.weight".lstrip(".")
        if calls.get(layer.module, 0) != 1 or counted.count(layer.module) != 1:
            return f"it is called {calls.get(layer.module, 0)} times, and not once as a module"
        if layer.weight != name or name in tied:
            return f"its weight is shared: it is {layer.weight} as well"
        weight: Tensor = module.weight  # type: ignore[assignment]
        if not bool(torch.isfinite(weight).all()):
            return "its weight is not finite"
        if weight.dtype not in dtypes or weight.device.type != "cpu":
            dtype = str(weight.dtype).removeprefix("torch.")
            wanted = " or ".join(str(d).removeprefix("torch.") for d in dtypes)
            return f"its weight is {dtype} on {weight.device}, not {wanted} on the CPU"
        if layer.width * max(_product(layer.taps), 1) > widest:
            return f"an output reads {layer.width * _product(layer.taps)} numbers, more than {widest}"
        pattern = (patterns or {}).get(layer.weight)
        if pattern is not None and bool((pattern.states == UNIFY).any()):
            return "its unified blocks have one magnitude, which scales by output would change"
        return ""

    for layer in graph.layers:
        reason = why(layer)
        if reason:
            skipped.setdefault(layer.module or layer.node, reason)
        else:
            layers.append(layer)
    read = {layer.module for layer in graph.layers}
    for path, module in modules.items():
        if type(module) in kinds and path not in read:
            skipped[path] = "no call of it was traced"
    return Quantisable(tuple(layers), skipped)


def _product(sizes: Iterable[int]) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count


def _calls(model: nn.Module, inputs: Inputs) -> dict[str, int]:
    """Return how often each module is called on the example."""
    calls: dict[str, int] = {}

    def counter(path: str) -> Any:
        def count(*_: Any) -> None:
            calls[path] = calls.get(path, 0) + 1

        return count

    handles = [m.register_forward_pre_hook(counter(path)) for path, m in model.named_modules()]
    try:
        with evaluating(model), torch.no_grad():
            inputs(model)
    finally:
        for handle in handles:
            handle.remove()
    return calls

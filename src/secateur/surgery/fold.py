"""Layers that compute their weight from parameters (standardised, normalised, low-rank ones) made plain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from secateur.graph.layers import argument_names
from secateur.ground.copies import copied
from secateur.ground.errors import SurgeryError
from secateur.ground.inputs import Inputs
from secateur.ground.modes import evaluating

from .verify import outputs

__all__ = ["alike", "fold_weights"]

_LAYERS: Mapping[Callable[..., Tensor], type[nn.Module]] = {
    torch.conv1d: nn.Conv1d,
    torch.conv2d: nn.Conv2d,
    torch.conv3d: nn.Conv3d,
    torch.conv_transpose1d: nn.ConvTranspose1d,
    torch.conv_transpose2d: nn.ConvTranspose2d,
    torch.conv_transpose3d: nn.ConvTranspose3d,
    F.linear: nn.Linear,
}
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_OPTIONS = ("stride", "padding", "output_padding", "dilation")
TOLERANCE = 1e-4  # of the largest output


@dataclass(frozen=True)
class _Call:
    """One call of a layer function and its result."""

    kind: type[nn.Module]
    arguments: Mapping[str, Any]
    result: Tensor

    def plain(self) -> nn.Module:
        """Return a layer that has the weight that was computed."""
        weight, bias = self.arguments["weight"].detach(), self.arguments.get("bias")
        first, second = weight.shape[:2]
        if self.kind is nn.Linear:
            layer: nn.Module = nn.Linear(second, first, bias is not None, device="meta")
        else:
            groups = self.arguments.get("groups", 1)
            inputs, outputs = (
                (first, second * groups) if self.kind in _TRANSPOSED else (second * groups, first)
            )
            options = {k: self.arguments[k] for k in _OPTIONS if k in self.arguments}
            layer = self.kind(
                inputs,
                outputs,
                tuple(weight.shape[2:]),
                groups=groups,
                bias=bias is not None,
                device="meta",
                **options,
            )
        layer.register_parameter("weight", nn.Parameter(weight.clone()))
        layer.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach().clone()))
        return layer


class _Calls(TorchFunctionMode):
    """Keeps the calls of layer functions."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[_Call] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function in _LAYERS:
            given = {**dict(zip(argument_names(function.__name__), args)), **(kwargs or {})}
            self.found.append(_Call(_LAYERS[function], given, result))
        return result


def fold_weights(model: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """Return a copy in which layers with a computed weight are plain linear ones and convolutions, transposed or not.

    Weight-standardised convolutions, `torch.nn.utils.parametrize` and their like compute a weight from parameters at
    each call; as it depends on all inputs of a unit, none can be pruned. For inference the weight is a constant: every
    module of the model that does nothing but apply one layer function to its input with such a weight is replaced by
    a plain layer, whose ``weight`` and ``bias`` take the place of its parameters. What is parametrized elsewhere keeps
    its module and loses its parametrizations. The model runs on the example inputs in evaluation mode. Train on, if
    you like: the copy has parameters, but what made its weights is gone.

    Raises:
        SurgeryError: the copy does not compute what the model does.

    >>> from torch.nn.utils import parametrizations
    >>> model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 2))
    >>> fold_weights(model, torch.randn(3, 4))
    Sequential(
      (0): Linear(in_features=4, out_features=8, bias=True)
      (1): ReLU()
      (2): Linear(in_features=8, out_features=2, bias=True)
    )
    """
    given_to = Inputs(args, kwargs).beside(model)
    args, kwargs = given_to.args, dict(given_to.kwargs)
    folded = copied(model)
    inputs: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, given: tuple[Any, ...], options: Mapping[str, Any], result: Any) -> None:
        if len(given) == 1 and not options and isinstance(given[0], Tensor) and isinstance(result, Tensor):
            inputs.setdefault(module, given[0])

    with evaluating(folded), torch.no_grad():
        inside = [m for m in folded.modules() if m is not folded and next(m.parameters(), None) is not None]
        handles = [module.register_forward_hook(keep, with_kwargs=True) for module in inside]
        folded(*args, **kwargs)
        for handle in handles:
            handle.remove()
        layers: dict[nn.Module, nn.Module] = {}
        for module in reversed(inside):  # what is inside of a module comes behind it
            plain = None if layers.keys() & set(module.modules()) else _plain(module, inputs.get(module))
            if plain is not None:
                layers[module] = plain
        names = {n: layers[m] for n, m in folded.named_modules(remove_duplicate=False) if m in layers}
        for name, layer in names.items():
            folded.set_submodule(name, layer)
        _without_parametrizations(folded)
    for name, layer in names.items():
        layer.train(model.get_submodule(name).training)
    if not alike(model, folded, args, kwargs):
        raise SurgeryError(
            f"With plain weights in {', '.join(names)} the model computes something else: it looks at more of "
            "these layers than what they return. Remedy: fold the submodules where it does not, one by one."
        )
    return folded


def alike(model: nn.Module, other: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether two models compute the same in evaluation mode, but for rounding."""
    wanted, given = outputs(model, args, kwargs), outputs(other, args, kwargs)
    return len(wanted) == len(given) and all(
        a.shape == b.shape and float((a - b).abs().max()) <= TOLERANCE * float(a.abs().max())
        for a, b in zip(wanted, given)
    )


def _without_parametrizations(model: nn.Module) -> None:
    """Make plain what is parametrized and is no single layer: recurrent ones, embeddings, modules that do more.

    torch's own removal takes the tensors from the class, which a copied module shares with the one it is from.
    """
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            found = {name: getattr(module, name).detach().clone() for name in module.parametrizations}  # type: ignore[union-attr]
            del module.parametrizations
            module.__class__ = type(module).__mro__[1]
            for name, value in found.items():
                setattr(module, name, nn.Parameter(value))


def _plain(module: nn.Module, x: Tensor | None) -> nn.Module | None:
    """Return a plain layer instead of a module that was called with x, or None if it is none or does more."""
    if x is None or not x.is_floating_point():
        return None
    calls = []
    for given in (x, torch.randn_like(x)):
        with _Calls() as mode:
            result = module(given)
        if (
            len(mode.found) != 1
            or mode.found[0].arguments["input"] is not given
            or mode.found[0].result is not result
        ):
            return None
        calls.append(mode.found[0])
    weights = [call.arguments["weight"] for call in calls]
    own = any(weights[0] is parameter for parameter in module.parameters())
    return None if own or not torch.equal(*weights) else calls[0].plain()

"""Widths that all layers share, written into a configuration: such a model needs nothing of secateur's to be loaded."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from secateur.ground.copies import copied
from secateur.ground.modes import evaluating
from secateur.ground.tensors import tensors_of
from secateur.surgery.plan import Plan, SliceTensor

__all__ = ["WIDTHS", "uniform_widths", "with_biases"]

WIDTHS = ("intermediate_size", "ffn_dim", "n_inner", "num_attention_heads", "num_key_value_heads", "head_dim")
"""Entries of configurations that say a width of all layers."""

HEADS = ("num_attention_heads", "num_key_value_heads")
TRIES = 64


def uniform_widths(
    model: nn.Module, data: Mapping[str, Any], plan: Plan, make: Callable[[dict[str, Any]], nn.Module], x: Any
) -> dict[str, int]:
    """Return the entries of a configuration with which its own class makes the pruned model, if there are such.

    `data` are those of the dense model, `make` makes a model of such data, and `x` are inputs by keyword: with the
    pruned model's weights the made one has to give its outputs. Where layers differ the answer is empty.
    """
    wanted = {name: tuple(t.shape) for name, t in tensors_of(model).items()}
    for widths in itertools.islice(_candidates(data, plan), TRIES):
        try:
            with torch.device("meta"):
                sketch = make({**copy.deepcopy(dict(data)), **widths})
        except Exception:  # configurations refuse sizes in many ways
            continue
        if {name: tuple(t.shape) for name, t in tensors_of(sketch).items()} == wanted:
            return widths if _same(model, make({**copy.deepcopy(dict(data)), **widths}), x) else {}
    return {}


def with_biases(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """Give linear layers of a model the biases that are named and that its class has not made; return it.

    Where a layer is taken out of a network its constant output goes on into the next one, as a bias.
    """
    modules = dict(model.named_modules())
    for name in names:
        path, _, leaf = name.rpartition(".")
        layer = modules.get(path)
        if leaf == "bias" and isinstance(layer, nn.Linear) and getattr(layer, "bias", None) is None:
            layer.register_parameter("bias", nn.Parameter(layer.weight.new_zeros(layer.out_features)))
    return model


def _candidates(data: Mapping[str, Any], plan: Plan) -> Iterator[dict[str, int]]:
    """Yield widths that the cuts of a plan may have left, those first that differ in most."""
    cuts: dict[int, set[int]] = {}
    for edit in (edit for step in plan.steps for edit in step.edits):
        if isinstance(edit, SliceTensor):
            cuts.setdefault(edit.size, set()).add(len(edit.index))
    heads, hidden = data.get("num_attention_heads"), data.get("hidden_size")
    dim = data.get("head_dim") or (hidden // heads if heads and hidden else None)
    given = {key: value for key in WIDTHS if type(value := data.get(key)) is int}
    if dim and "num_key_value_heads" in given:  # a decoder: fewer heads must not make them wider
        given["head_dim"] = dim
    choices: dict[str, list[int]] = {}
    for key, value in given.items():
        per = dim if key in HEADS and dim else 1
        left = {n // per for n in _reached(value * per, cuts) if n % per == 0}
        if key == "head_dim":
            left = {
                n // h for h in map(given.get, HEADS) if h for n in _reached(h * value, cuts) if n % h == 0
            }
        choices[key] = [value, *sorted(left - {value})]
    every = (
        [dict(zip(choices, values)) for values in itertools.product(*choices.values())]
        if (prod(map(len, choices.values())) <= TRIES**2)
        else []
    )
    changed = [widths for widths in every if any(widths[key] != given[key] for key in given)]
    yield from sorted(changed, key=lambda widths: -sum(widths[key] != given[key] for key in given))


def _reached(size: int, cuts: Mapping[int, set[int]]) -> set[int]:
    """Return the sizes that a dimension may have come to, by one cut or by several after another."""
    found, left = set[int](), [size]
    while left:
        for n in cuts.get(left.pop(), set()) - found:
            found.add(n)
            left.append(n)
    return found


def _same(model: nn.Module, made: nn.Module, x: Mapping[str, Tensor]) -> bool:
    """Say whether a model of the class has the pruned one's outputs, with its weights."""
    model = copied(model).to("cpu")
    made = made.to(next(iter(tensors_of(model).values())).dtype)
    made.load_state_dict(model.state_dict())
    with evaluating(model), evaluating(made), torch.no_grad():
        old, new = (m(**x, return_dict=False)[0] for m in (model, made))
    return torch.allclose(old, new, rtol=1e-3, atol=1e-4 * float(old.abs().max()))

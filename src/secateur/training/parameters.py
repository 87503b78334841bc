"""A model's parameters by name, and those that a user chooses among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import torch
from torch import nn

from secateur.ground.errors import UnknownNameError, did_you_mean
from secateur.ground.patterns import Pattern, matches

__all__ = ["choose", "lookup", "parameters", "unwrap"]


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside of torch.compile and (Distributed)DataParallel: names do not depend on wrappers."""
    while True:
        if isinstance(model, torch._dynamo.OptimizedModule):
            model = model._orig_mod
        elif isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        else:
            return model


def parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return all parameters under their names; one that modules share is there once, under its first name.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> net[1].weight = net[0].weight
    >>> list(parameters(net))
    ['0.weight', '0.bias', '1.bias']
    """
    return dict(unwrap(model).named_parameters())


def lookup(known: Mapping[str, nn.Parameter], model: nn.Module, name: str) -> nn.Parameter:
    """Return the parameter of a name.

    Raises:
        UnknownNameError: there is none; the message says the closest name, or the one that it is shared under.
    """
    if name in known:
        return known[name]
    alias = dict(unwrap(model).named_parameters(remove_duplicate=False)).get(name)
    first = next((n for n, p in known.items() if p is alias), None)
    hint = f" It is shared: call it {first!r}." if first else did_you_mean(name, known)
    raise UnknownNameError(f"The model has no parameter {name!r}.{hint}")


def choose(
    model: nn.Module, only: Iterable[Pattern] = (), exclude: Iterable[Pattern] = ()
) -> tuple[str, ...]:
    """Return the names of the parameters that patterns choose, in the model's order.

    A glob names parameters or modules above them, a type all parameters of such modules. Without `only` all are
    chosen. A shared parameter is chosen or excluded by any of its names.

    Raises:
        UnknownNameError: a pattern matches no parameter; the message says the closest name.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    >>> choose(net, exclude=("*.bias",)), choose(net, only=(nn.LayerNorm,))
    (('0.weight', '1.weight'), ('1.weight', '1.bias'))
    """
    inner = unwrap(model)
    named = list(inner.named_parameters(remove_duplicate=False))
    only, exclude = tuple(only), tuple(exclude)
    hits = {p: [n for n, _ in named if _matches(inner, n, p)] for p in (*only, *exclude)}
    for pattern, names in hits.items():
        if not names:
            told = pattern if isinstance(pattern, str) else pattern.__name__
            modules = (n for n, _ in inner.named_modules() if n)
            hint = did_you_mean(told, [*(n for n, _ in named), *modules]) if isinstance(pattern, str) else ""
            raise UnknownNameError(f"No parameter matches {told!r}.{hint}")
    by_name = dict(named)
    wanted = {id(by_name[n]) for p in only for n in hits[p]} if only else {id(p) for _, p in named}
    wanted -= {id(by_name[n]) for p in exclude for n in hits[p]}
    return tuple(name for name, parameter in inner.named_parameters() if id(parameter) in wanted)


def _matches(model: nn.Module, name: str, pattern: Pattern) -> bool:
    if isinstance(pattern, str) and fnmatchcase(name, pattern):
        return True
    return matches(model, name.rpartition(".")[0], pattern)

"""Blocks with training-time branches (RepVGG, MobileOne, FastViT and their like) in the form that is deployed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from secateur.ground.copies import copied
from secateur.ground.errors import SurgeryError
from secateur.ground.inputs import Inputs

from .fold import alike

__all__ = ["reparameterize"]

METHODS = ("fuse", "reparameterize", "switch_to_deploy", "merge_branches")
"""Methods without arguments by which modules of this kind fuse their branches: in place, or into what they return."""


def reparameterize(model: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """Return a copy whose blocks of parallel branches are single convolutions, as they are deployed; in eval mode.

    Such networks train with parallel convolutions, each with a BatchNorm, and an identity, that are summed; for
    inference they are one convolution. Prune that one: branches cost their MACs, and a unit of a sum can only go with
    those of all branches. The modules know how to fuse themselves: a method ``fuse``, ``reparameterize``,
    ``switch_to_deploy`` or ``merge_branches`` without arguments is called on every module that has one, outermost
    first; one that returns a module is replaced by it. The result is compared with the model on the example inputs.

    To load an artefact of a pruned copy, reparameterize the fresh model in the same way.

    Raises:
        SurgeryError: no module offers such a method, or the copy does not compute what the model does.

    >>> class Block(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
    ...
    ...     def forward(self, x):
    ...         return self.a(x) + self.b(x)
    ...
    ...     def fuse(self):
    ...         fused = nn.Linear(4, 4)
    ...         fused.weight.data = self.a.weight + self.b.weight
    ...         fused.bias.data = self.a.bias + self.b.bias
    ...         return fused
    >>> reparameterize(nn.Sequential(Block(), nn.ReLU()), torch.randn(2, 4))
    Sequential(
      (0): Linear(in_features=4, out_features=4, bias=True)
      (1): ReLU()
    )
    """
    example = Inputs(args, kwargs).beside(model)
    args, kwargs = example.args, dict(example.kwargs)
    fused = copied(model).eval()
    with torch.no_grad():
        root, names = _fused(fused, "")
    if not names:
        raise SurgeryError(
            f"No module of {type(model).__name__} says how its branches are fused: none has one of the methods "
            f"{', '.join(METHODS)} without arguments. Remedy: give the blocks such a method, or prune as they are."
        )
    if not alike(model, root.eval(), args, kwargs):
        raise SurgeryError(
            f"With fused branches in {', '.join(names[:5])} the model computes something else. Remedy: check what "
            "the method of these modules does, or prune the model as it is."
        )
    return root


def _fused(module: nn.Module, path: str) -> tuple[nn.Module, list[str]]:
    """Return what stands in for a module once it and all inside of it are fused, and the paths of those that were."""
    found: list[str] = []
    method = _method(module)
    if method is not None:
        before = [type(m) for m in module.modules()], len(list(module.parameters()))
        result = method()
        module = result if isinstance(result, nn.Module) else module
        if ([type(m) for m in module.modules()], len(list(module.parameters()))) != before:
            found.append(path or "the model")
    for name, child in list(module.named_children()):
        inner, names = _fused(child, f"{path}.{name}" if path else name)
        if inner is not child:
            setattr(module, name, inner)
        found += names
    return module, found


def _method(module: nn.Module) -> Callable[[], object] | None:
    for name in METHODS:
        method = getattr(module, name, None)
        if inspect.ismethod(method) and not any(
            p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
            for p in inspect.signature(method).parameters.values()
        ):
            return method
    return None

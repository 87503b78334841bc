"""Run models in one mode or another, and leave everything as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["evaluating", "exact_products", "training", "without_fastpath"]


def evaluating(*models: nn.Module) -> AbstractContextManager[None]:
    """Put models into evaluation mode; afterwards every submodule has its own mode again.

    >>> model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    >>> with evaluating(model):
    ...     model[0].training
    False
    >>> model[0].training, model[1].training
    (True, False)
    """
    return _in_mode(models, training=False)


def training(*models: nn.Module) -> AbstractContextManager[None]:
    """Put models into training mode; afterwards every submodule has its own mode again."""
    return _in_mode(models, training=True)


@contextmanager
def without_fastpath() -> Iterator[None]:
    """Let torch's own attention and encoder layers run the code that an export shows.

    In evaluation they make single native calls otherwise, which a counter cannot look into, and which give zeros at
    positions that are masked as padding.
    """
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def exact_products() -> Iterator[None]:
    """Let products of float32 matrices be just that, whatever `torch.set_float32_matmul_precision` allows elsewhere.

    Moments from TF32 or bfloat16 products have three digits, which is less than the ridges of recovery suppose.
    """
    mkldnn: Any = torch.backends.mkldnn
    if not hasattr(mkldnn, "matmul") or not hasattr(
        torch.backends.cuda.matmul, "fp32_precision"
    ):  # before torch 2.9
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
        return
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, mkldnn.matmul)
    allowed = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, allowed, strict=True):
            backend.fp32_precision = precision


@contextmanager
def _in_mode(models: tuple[nn.Module, ...], training: bool) -> Iterator[None]:
    modes = [(m, m.training) for model in models for m in model.modules()]
    try:
        for model in models:
            model.train(training)
        yield
    finally:
        for module, mode in modes:
            module.training = mode

"""Where tensors are: on whichever device the model is, and what that device can do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from .errors import UsageError

__all__ = [
    "check_placement",
    "device_of",
    "moments_device",
    "moments_on_host",
    "moved",
    "onto",
    "single",
]

_HOST: ContextVar[bool] = ContextVar("moments on the host", default=False)


def device_of(model: nn.Module) -> torch.device | None:
    """Return the device of all of a model's parameters and buffers; None where it has none, or they are on several.

    >>> device_of(nn.Linear(2, 2))
    device(type='cpu')
    """
    devices = {t.device for found in (model.parameters(), model.buffers()) for t in found}
    return devices.pop() if len(devices) == 1 else None


def check_placement(model: nn.Module) -> None:
    """Refuse a model whose values are not there: offloaded to the meta device, or cut up among processes.

    Raises:
        UsageError: the message names the parameter, and what to do.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise UsageError(
                f"{name} is on the meta device, without values: load the whole model, on one device or with a device "
                "map that offloads nothing to disk, and call it again."
            )
        if hasattr(tensor, "full_tensor"):
            raise UsageError(
                f"{name} is cut up among processes ({type(tensor).__name__}): prune the whole model before it is "
                "sharded, or load a full state dict (torch.distributed.checkpoint.state_dict) into an unsharded one."
            )


def moments_device(device: torch.device) -> torch.device:
    """Return where moments of what a device makes are summed and solved: there, or on the processor.

    Second moments are float64. Some devices have no such numbers (Apple's GPUs): theirs are kept by the processor.
    So are all within `moments_on_host`.

    >>> moments_device(torch.device("cpu"))
    device(type='cpu')
    """
    if _HOST.get():
        return torch.device("cpu")
    try:
        torch.empty(0, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError, NotImplementedError):
        return torch.device("cpu")
    return device


@contextmanager
def moments_on_host() -> Iterator[None]:
    """Let the processor keep and solve all moments: slower, for a device whose memory does not hold them.

    >>> with moments_on_host():
    ...     moments_device(torch.device("meta"))
    device(type='cpu')
    """
    token = _HOST.set(True)
    try:
        yield
    finally:
        _HOST.reset(token)


def moved(value: Any, device: torch.device | None) -> Any:
    """Return a structure with its tensors on a device; with None, as it is. Pinned memory is not waited for."""
    if device is None:
        return value
    return tree_map_only(Tensor, lambda x: x.to(device, non_blocking=x.device.type == "cpu"), value)


def onto(x: Tensor, like: Tensor) -> Tensor:
    """Return values on another tensor's device and in its type; they move in the narrower type, which both have.

    >>> onto(torch.ones(2), torch.zeros((), dtype=torch.float64)).dtype
    torch.float64
    """
    narrower = min(x.dtype, like.dtype, key=lambda dtype: dtype.itemsize)
    return x.to(narrower).to(like.device).to(like.dtype)


def single(x: Tensor) -> Tensor:
    """Return values of half precision in float32, in which products are summed; others as they are.

    >>> single(torch.ones(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x

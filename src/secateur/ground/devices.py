"""Where tensors are: on whichever device the model is, and what that device can do."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["device_of", "moments_device", "onto", "single"]


def device_of(model: nn.Module) -> torch.device | None:
    """Return the device of all of a model's parameters and buffers; None where it has none, or they are on several.

    >>> device_of(nn.Linear(2, 2))
    device(type='cpu')
    """
    devices = {t.device for found in (model.parameters(), model.buffers()) for t in found}
    return devices.pop() if len(devices) == 1 else None


def moments_device(device: torch.device) -> torch.device:
    """Return where moments of what a device makes are summed and solved: there, or on the processor.

    Second moments are float64. Some devices have no such numbers (Apple's GPUs): theirs are kept by the processor.

    >>> moments_device(torch.device("cpu"))
    device(type='cpu')
    """
    try:
        torch.empty(0, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError, NotImplementedError):
        return torch.device("cpu")
    return device


def onto(x: Tensor, like: Tensor) -> Tensor:
    """Return values on another tensor's device and in its type: moved first, for their own may not have that type.

    >>> onto(torch.ones(2), torch.zeros((), dtype=torch.float64)).dtype
    torch.float64
    """
    return x.to(like.device).to(like.dtype)


def single(x: Tensor) -> Tensor:
    """Return values of half precision in float32, in which products are summed; others as they are.

    >>> single(torch.ones(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x

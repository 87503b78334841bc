"""One or many processes (law 8): sums over all of them, and errors that leave none of them waiting.

Where `torch.distributed` is initialised, every process sums over its own share of the calibration data, and the sums
are all-reduced: all that follows from them is then computed by every process alike. Without it nothing here does
anything. Every process must make the same calls in the same order.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from .errors import CalibrationError

__all__ = ["digest", "first_process", "in_step", "processes", "require_same", "summed"]


def processes() -> int:
    """Return the number of processes that calibrate together, 1 without `torch.distributed`.

    >>> processes()
    1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def first_process() -> bool:
    """Whether this process is the one that writes files.

    >>> first_process()
    True
    """
    return processes() == 1 or dist.get_rank() == 0


def summed(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, of the same shape, type and device on each; alone, itself.

    >>> summed(torch.ones(2))
    tensor([1., 1.])
    """
    return value if processes() == 1 else _reduced(value, dist.ReduceOp.SUM)


@contextmanager
def in_step() -> Iterator[None]:
    """Run a block that each process goes through alone; if one fails, all of them raise when they leave it.

    Without this the others would wait at the next sum for a process that has given up.

    Raises:
        CalibrationError: the block failed in another process. Where it failed, its own error goes on.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    if processes() > 1:
        flags = torch.zeros(processes(), dtype=torch.int64)
        flags[dist.get_rank()] = error is not None
        failed = summed(flags).nonzero().flatten().tolist()
        if error is None and failed:
            raise CalibrationError(
                f"Process {failed[0]} of {processes()} gave up, so this one does, too: its own message says why."
            )
    if error is not None:
        raise error


def require_same(value: int, what: str, remedy: str) -> None:
    """Check that a number (below 2**63) is the same in all processes.

    Raises:
        CalibrationError: it is not; every process raises.
    """
    if processes() > 1:
        mine = torch.tensor([value, -value])
        if bool(
            (_reduced(mine, dist.ReduceOp.MAX) != mine).any()
            | (_reduced(mine, dist.ReduceOp.MIN) != mine).any()
        ):
            raise CalibrationError(f"The {processes()} processes do not have the same {what}: {remedy}.")


def digest(tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> int:
    """Return a checksum of named tensors, 32 bits, to be compared between processes.

    >>> digest({"a": torch.zeros(2)}) == digest({"a": torch.zeros(2)}) != digest({"a": torch.ones(2)})
    True
    """
    value = 0
    for name, tensor in sorted(dict(tensors).items()):
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        value = zlib.crc32(data.numpy().data, zlib.crc32(name.encode(), value))
    return value


def _reduced(value: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    # NCCL alone takes tensors on its own device only; with gloo, also beside it, the processor will do.
    device = "cpu" if "gloo" in dist.get_backend_config() else torch.accelerator.current_accelerator()
    result = value.to(device, copy=True)
    dist.all_reduce(result, operation)
    return result.to(value.device)

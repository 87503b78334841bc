"""Memory: outputs are written where earlier ones lay that nobody reads any more, so that no page is fetched twice."""

from __future__ import annotations

import math
import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Memory"]

SMALL = 1 << 14  # elements; the allocator keeps pieces of this size itself


@dataclass
class _Piece:
    memory: np.ndarray[Any, np.dtype[np.float32]]
    user: weakref.ref[Any] | None = None  # the array whose tensor lies here now

    @property
    def free(self) -> bool:
        return self.user is None or self.user() is None


@dataclass
class Memory:
    """Float32 outputs for the calls of one network, of any number of threads.

    A piece is free as soon as no tensor is left that was made from it, views included; there are as many pieces as
    were in use at once, each as large as the largest output that it had to take.

    >>> memory = Memory()
    >>> a = memory.empty((4, 8192))
    >>> place = a.data_ptr()
    >>> b = memory.empty((4, 8192))  # a is alive
    >>> del a
    >>> memory.empty((2, 16384)).data_ptr() == place != b.data_ptr()
    True
    """

    _pieces: list[_Piece] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def empty(self, shape: tuple[int, ...]) -> Tensor:
        """Return an uninitialised tensor."""
        size = math.prod(shape)
        if size <= SMALL:
            return torch.empty(shape)
        with self._lock:
            piece = self._free(size)
            view = np.ndarray(shape, np.float32, buffer=piece.memory)
            piece.user = weakref.ref(view)
        return torch.from_numpy(view)  # which keeps the view, and so the piece, until its last tensor is gone

    def _free(self, size: int) -> _Piece:
        """Return the smallest free piece that is large enough, else the largest free one, grown, else a new one."""
        free = sorted((p for p in self._pieces if p.free), key=lambda p: p.memory.size)
        for piece in free:
            if piece.memory.size >= size:
                return piece
        if not free:
            self._pieces.append(_Piece(torch.empty(size).numpy()))
            return self._pieces[-1]
        free[-1].memory = torch.empty(size).numpy()
        return free[-1]

    def __reduce__(self) -> tuple[Any, ...]:
        return Memory, ()  # a copy of a network has its own

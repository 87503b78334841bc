"""A stand-in device for tests where there is no GPU: tensors on it do not mix with the processor's, and float64 or
memory can be taken away. It is compiled once, against the installed torch, and kept in the build folder."""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils import cpp_extension

__all__ = ["device", "limited", "without_float64"]


@functools.cache
def _library() -> Any:
    folder = Path(__file__).parents[3] / "build" / f"standin-{torch.__version__}"
    folder.mkdir(parents=True, exist_ok=True)
    torch.utils.rename_privateuse1_backend("standin")
    found = cpp_extension.load(
        "standin", [str(Path(__file__).with_name("standin.cpp"))], build_directory=str(folder),
        extra_cflags=["-O1"], with_cuda=False,
    )  # fmt: skip
    module = types.ModuleType("torch.standin")
    module.__dict__.update(
        is_available=lambda: True, device_count=lambda: 1, current_device=lambda: 0, _is_in_bad_fork=lambda: False,
        manual_seed_all=lambda seed: None, get_amp_supported_dtype=lambda: [torch.bfloat16, torch.float16],
        get_rng_state=lambda device=0: torch.get_rng_state(), set_rng_state=lambda state, device=0: None,
    )  # fmt: skip
    torch._register_device_module("standin", module)
    torch.utils.generate_methods_for_privateuse1_backend()
    return found


def device() -> torch.device:
    """Return the stand-in device."""
    _library()
    return torch.device("standin", 0)


@contextlib.contextmanager
def without_float64() -> Iterator[None]:
    """Let the device refuse float64, as MPS does."""
    _library().float64(False)
    try:
        yield
    finally:
        _library().float64(True)


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """Let the device hold so many bytes more than now; what is beyond fails as it does on a GPU."""
    library = _library()
    library.limit(library.held() + size)
    try:
        yield
    finally:
        library.limit(-1)

"""The compiled kernels: which are there, which this processor can run, and their C interface."""

from __future__ import annotations

import ctypes
import os
import platform
from ctypes import POINTER, c_float, c_int, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from secateur.ground.errors import KernelError, did_you_mean

__all__ = [
    "ABI",
    "INSTRUCTION_SETS",
    "Average",
    "Conv",
    "Int8Matrix",
    "Int8Step",
    "Library",
    "Matrix",
    "Place",
    "Pool",
    "Step",
    "Sum",
    "find_library",
    "kernels",
]

ABI = 5
"""Version of the C interface (native/build.py compiles it in)."""

INSTRUCTION_SETS = ("avx512vnni", "avx512", "avxvnni", "avx2", "portable")
"""What libraries are made for, the fastest first; the order is that of native/kernels.cpp."""

FOLDER = Path(__file__).parent / "lib"
VARIABLE = "SECATEUR_KERNELS"

_Floats = _Words = c_void_p


class Matrix(ctypes.Structure):
    """``struct Matrix`` of native/matrix.h."""

    _fields_ = [
        *(
            (name, c_int32)
            for name in ("rows", "columns", "height", "blocks", "planes", "activation", "add_last")
        ),
        *((name, c_void_p) for name in ("first", "count", "start", "offset", "values", "bias")),
    ]


class Int8Matrix(ctypes.Structure):
    """``struct Int8Matrix`` of native/requantise.h."""

    _fields_ = [
        *((name, c_int32) for name in ("rows", "columns", "height", "blocks", "wide", "floats")),
        *((name, c_int32) for name in ("zero_x", "zero_y", "zero_residual")),
        *((name, c_float) for name in ("low", "high")),
        *(
            (name, c_void_p)
            for name in ("start", "offset", "values", "bias", "multiplier", "residual", "table")
        ),
    ]


class Conv(ctypes.Structure):
    """``struct Conv`` of native/matrix.h."""

    _fields_ = [
        *((name, c_int32) for name in ("height", "width", "out_height", "out_width", "stride_h", "stride_w")),
        *(
            (name, c_int32)
            for name in ("pad_top", "pad_left", "phases", "phase_rows", "pitch", "phase_plane")
        ),
        ("direct", c_int32),
        ("phase", c_void_p),
    ]


class Pool(ctypes.Structure):
    """``struct Pool`` of native/pool.h."""

    _fields_ = [
        *((name, c_int32) for name in ("height", "width", "out_height", "out_width", "kernel_h", "kernel_w")),
        *((name, c_int32) for name in ("stride_h", "stride_w", "pad_top", "pad_left")),
    ]


class Average(ctypes.Structure):
    """``struct Average`` of native/int8_pool.h."""

    _fields_ = [
        ("multiplier", c_float), *((name, c_int32) for name in ("zero_x", "zero_y", "most_y", "count_padding"))
    ]  # fmt: skip


class Sum(ctypes.Structure):
    """``struct Sum`` of native/int8_pointwise.h."""

    _fields_ = [(name, c_int32) for name in ("a", "b", "constant", "shift", "low", "high")]


class Place(ctypes.Structure):
    """``struct Place`` of native/chain.h."""

    _fields_ = [("offset", c_int64), ("piece", c_int32)]


class Step(ctypes.Structure):
    """``struct Step`` of native/chain.h."""

    _fields_ = [
        *((name, c_void_p) for name in ("matrix", "conv", "pool")),
        *((name, Place) for name in ("x", "residual", "y")),
        ("count", c_int64),
    ]


class Int8Step(ctypes.Structure):
    """``struct Int8Step`` of native/int8_chain.h."""

    _fields_ = [
        *((name, c_void_p) for name in ("matrix", "conv", "pool", "average", "sum", "table")),
        *((name, Place) for name in ("x", "other", "y")),
        ("count", c_int64),
    ]


INTERFACE = {
    "secateur_supports": (c_int,),
    "secateur_conv": (POINTER(Matrix), POINTER(Conv), _Floats, _Floats, _Floats, c_int64, c_int),
    "secateur_linear": (POINTER(Matrix), _Floats, _Floats, _Floats, c_int64, c_int),
    "secateur_max_pool": (POINTER(Pool), _Floats, _Floats, c_int64, c_int),
    "secateur_chain": (POINTER(Step), c_int64, POINTER(c_void_p), c_int),
    "secateur_int8_chain": (POINTER(Int8Step), c_int64, POINTER(c_void_p), c_int),
    "secateur_int8_wide": (c_int,),
    "secateur_int8_conv": (POINTER(Int8Matrix), POINTER(Conv), _Words, _Words, _Words, c_int64, c_int),
    "secateur_int8_linear": (POINTER(Int8Matrix), _Words, _Words, _Words, c_int64, c_int),
    "secateur_int8_max_pool": (POINTER(Pool), _Words, _Words, c_int64, c_int),
    "secateur_int8_average_pool": (POINTER(Pool), POINTER(Average), _Words, _Words, c_int64, c_int),
    "secateur_int8_quantise": (_Floats, _Words, c_int64, c_int64, c_int64, c_float, c_int, c_int, c_int),
    "secateur_int8_reals": (_Words, _Floats, c_int64, c_int64, c_int64, c_float, c_int, c_int),
    "secateur_int8_table": (c_void_p, _Words, _Words, c_int64),
    "secateur_int8_add": (POINTER(Sum), _Words, _Words, _Words, c_int64),
}
"""The arguments of each function of native/kernels.cpp; all return an int."""


@dataclass(frozen=True)
class Library:
    """The kernels of one instruction set."""

    instruction_set: str
    handle: ctypes.CDLL


@dataclass(frozen=True)
class Found:
    """A library, or why there is none."""

    library: Library | None
    reason: str


def kernels() -> Library:
    """Return the kernels to use: the fastest that this processor can run.

    The environment variable ``SECATEUR_KERNELS`` (one of `INSTRUCTION_SETS`, or ``none``) forces one.

    Raises:
        KernelError: there are none; the message says why, and what to do.
    """
    found = find_library(os.environ.get(VARIABLE) or None)
    if found.library is None:
        raise KernelError(found.reason)
    return found.library


@cache
def find_library(forced: str | None = None, folder: Path = FOLDER) -> Found:
    """Return the library of the forced instruction set, else of the fastest; or the reason why there is none.

    Raises:
        KernelError: the forced one is not known, not built, or needs another processor.
    """
    if forced == "none":
        return Found(None, f"The kernels are switched off by {VARIABLE}=none; layers run dense.")
    if forced is not None and forced not in INSTRUCTION_SETS:
        known = ", ".join((*INSTRUCTION_SETS, "none"))
        raise KernelError(
            f"{VARIABLE}={forced!r} is no instruction set; known are {known}."
            + did_you_mean(forced, (*INSTRUCTION_SETS, "none"))
        )
    if not _path(folder, "portable").exists():
        reason = (
            "secateur's kernels are not compiled here, so layers run dense. Install a C++ compiler (g++ 12 or newer, "
            "or clang++) and install secateur again; in a checkout: python native/build.py."
        )
        if forced is not None:
            raise KernelError(reason)
        return Found(None, reason)
    try:
        portable = _open(folder, "portable")
    except KernelError as error:
        if forced is not None:
            raise
        return Found(None, f"{error} Layers run dense.")  # a wheel's kernels may be strange to this system
    if forced is not None:
        if not _supported(portable, forced):
            raise KernelError(
                f"{VARIABLE}={forced}: this processor does not have the instructions. Remedy: unset {VARIABLE}."
            )
        return Found(_open(folder, forced), "")
    for name in INSTRUCTION_SETS:
        if _path(folder, name).exists() and _supported(portable, name):
            return Found(_open(folder, name), "")
    return Found(portable, "")


def _path(folder: Path, name: str) -> Path:
    return folder / f"kernels-{name}{'.dylib' if platform.system() == 'Darwin' else '.so'}"


def _supported(portable: Library, name: str) -> bool:
    return name == "portable" or bool(portable.handle.secateur_supports(INSTRUCTION_SETS.index(name)))


def _open(folder: Path, name: str) -> Library:
    # torch comes first: it brings the OpenMP runtime, which the kernels then share with its thread pool.
    import torch  # noqa: F401

    path = _path(folder, name)
    try:
        handle = ctypes.CDLL(str(path))
        version = int(handle.secateur_abi())
    except (OSError, AttributeError) as error:
        raise KernelError(
            f"The kernels in {path} cannot be loaded ({error}). Remedy: install secateur again, or delete the folder "
            f"{folder}."
        ) from error
    if version != ABI:
        raise KernelError(
            f"The kernels in {path} are of version {version}, this secateur needs {ABI}. Remedy: install secateur "
            "again; in a checkout: python native/build.py."
        )
    for name_of, arguments in INTERFACE.items():
        function = getattr(handle, name_of)
        function.argtypes, function.restype = arguments, c_int
    return Library(name, handle)

"""How many bits of what int8 layers read this processor multiplies fastest."""

from __future__ import annotations

from typing import Literal

from ..ops import found_library

__all__ = ["fastest_bits"]


def fastest_bits() -> Literal[7, 8]:
    """Return 7 where the kernels need twice the room for 8 (AVX2 without VNNI), else 8, without kernels as well.

    >>> fastest_bits() in (7, 8)
    True
    """
    library = found_library().library
    if library is None:
        return 8
    wide = [bool(library.handle.secateur_int8_wide(most)) for most in (127, 255)]
    return 7 if wide == [False, True] else 8

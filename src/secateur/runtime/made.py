"""Modules that keep what they have made of their tensors for the kernels."""

from __future__ import annotations

from typing import Any, Self

from torch import nn

__all__ = ["Made"]


class Made(nn.Module):
    """A module that holds pointers into its tensors: they go where tensors move, are loaded, or are copied."""

    _made: Any = None

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._made = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._made = None
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_made": None}  # pointers are not copied

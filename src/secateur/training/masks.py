"""Masks: which entries of which parameters stay, as plain boolean tensors under parameter names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from secateur.ground.errors import TrainingError

from .parameters import lookup, parameters

__all__ = ["Masks"]


@dataclass(frozen=True, eq=False)
class Masks(Mapping[str, Tensor]):
    """Boolean tensors under parameter names, each of its parameter's shape: True is kept, False is zero.

    A parameter without an entry is whole. A parameter that modules share has one entry, under its first name.
    `share`, `kept` and `total` count over all entries; masks are combined by ``&`` and so only shrink.

    Raises:
        TrainingError: a tensor is not boolean.

    >>> net = nn.Linear(2, 2)
    >>> masks = Masks({"weight": torch.tensor([[True, False], [True, True]])})
    >>> masks.kept, masks.total, masks.share
    (3, 4, 0.75)
    >>> masks.applied(net)
    >>> net.weight[0, 1].item()
    0.0
    >>> (masks & Masks({"weight": torch.tensor([[True, True], [False, True]])})).share
    0.5
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, mask in self.tensors.items():
            if mask.dtype != torch.bool:
                raise TrainingError(
                    f"The mask of {name!r} has type {mask.dtype}: masks are boolean, True is kept."
                )

    @classmethod
    def full(cls, model: nn.Module, names: Iterable[str] | None = None) -> Masks:
        """Return masks that keep everything, of all parameters or of those named.

        Raises:
            UnknownNameError: the model has no parameter of that name.
        """
        known = parameters(model)
        chosen = known if names is None else {name: lookup(known, model, name) for name in names}
        return cls({name: torch.ones_like(p, dtype=torch.bool) for name, p in chosen.items()})

    @property
    def kept(self) -> int:
        """How many entries are kept."""
        return sum(int(mask.sum()) for mask in self.tensors.values())

    @property
    def total(self) -> int:
        """How many entries there are."""
        return sum(mask.numel() for mask in self.tensors.values())

    @property
    def share(self) -> float:
        """The share of all entries that is kept; 1 without entries."""
        return self.kept / self.total if self.total else 1.0

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __repr__(self) -> str:
        return f"Masks({len(self)} parameters, {self.kept:,} of {self.total:,} kept)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Masks):
            return NotImplemented
        return self.keys() == other.keys() and all(
            torch.equal(self[k], other[k].to(self[k].device)) for k in self
        )

    __hash__ = None  # type: ignore[assignment]  # tensors can change

    def __and__(self, other: Masks) -> Masks:
        """Return what both keep.

        Raises:
            TrainingError: two masks of one parameter have different shapes.
        """
        both = dict(self.tensors)
        for name, mask in other.items():
            mine = both.get(name)
            if mine is not None and mine.shape != mask.shape:
                raise TrainingError(
                    f"Two masks of {name!r} have shapes {tuple(mine.shape)} and {tuple(mask.shape)}: "
                    "they belong to different models."
                )
            both[name] = mask if mine is None else mine & mask.to(mine.device)
        return Masks(both)

    def __le__(self, other: Masks) -> bool:
        """Whether nothing is kept here that is gone there."""
        return (self & other) == Masks({n: torch.ones_like(m) for n, m in other.items()} | dict(self.tensors))

    @torch.no_grad()
    def applied(self, model: nn.Module) -> None:
        """Set the masked entries of a model to zero, in place.

        Raises:
            UnknownNameError: the model has no parameter of a mask's name.
            TrainingError: a mask does not have its parameter's shape.
        """
        for name, parameter in self.of(model).items():
            # Filled, not multiplied: 0 * -1 is -0, and files full of both zeros compress worse.
            parameter.masked_fill_(~self[name].to(parameter.device), 0)

    def of(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Return the parameters that have masks, under their names. Raises as `applied` does."""
        known = parameters(model)
        found = {name: lookup(known, model, name) for name in self}
        for name, parameter in found.items():
            if parameter.shape != self[name].shape:
                raise TrainingError(
                    f"The mask of {name!r} has shape {tuple(self[name].shape)}, the parameter "
                    f"{tuple(parameter.shape)}: the masks belong to another model, or to this one before surgery."
                )
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """Return the boolean tensors under their names, for safetensors."""
        return dict(self.tensors)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Masks:
        """Return the masks that `state_dict` wrote."""
        return cls(dict(state))

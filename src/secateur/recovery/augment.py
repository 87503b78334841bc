"""Augmentation: other inputs made of the calibration samples, on which a network is to do what the dense one does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.ground.errors import CalibrationError

__all__ = ["Augment", "Pictures", "augmented", "is_picture"]

Augment = Callable[..., Any]
"""Takes the inputs of a batch, each as an argument, and returns as many; random draws are torch's own."""

SMALLEST = 8  # pixels: below that, four dimensions are taken for something else


@dataclass(frozen=True)
class Pictures:
    """Moves, mirrors and mixes pictures; what is no picture stays as it is.

    A picture is the only input of a network, a floating tensor (N, C, H, W) of at most four channels and at least eight
    pixels a side. Each is moved by up to `shift` of its sides (edges are repeated), with `flip` every second one is
    mirrored, and a share `mix` of them is then mixed with another of the batch, in random proportions.

    That is safe because no label has to survive: the dense network says what is wanted of the same input. Where
    mirrored inputs mean nothing to it (text), leave `flip` away.

    >>> Pictures()(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 3, 16, 16])
    """

    shift: float = 0.125
    flip: bool = True
    mix: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.shift <= 0.5:
            raise ValueError(f"shift={self.shift} is the share of a side: it must be from 0 to 0.5.")
        if not 0 <= self.mix <= 1:
            raise ValueError(f"mix={self.mix} is a share of the pictures: it must be from 0 to 1.")

    def __call__(self, *inputs: Any) -> Any:
        """Return the pictures, others; or what was given."""
        if not self.changes(inputs):
            return inputs[0] if len(inputs) == 1 else inputs
        return self._mixed(self._moved(inputs[0]))

    def changes(self, inputs: Sequence[Any]) -> bool:
        """Whether these are inputs that it makes others of."""
        return len(inputs) == 1 and is_picture(inputs[0])

    def _moved(self, x: Tensor) -> Tensor:
        n, c = x.shape[:2]
        rows, columns = (self._places(n, side) for side in x.shape[2:])
        if self.flip:
            columns = torch.where(torch.rand(n, 1) < 0.5, columns, columns.flip(1))
        images, channels = torch.arange(n).view(n, 1, 1, 1), torch.arange(c).view(1, c, 1, 1)
        images, channels, rows, columns = (index.to(x.device) for index in (images, channels, rows, columns))
        return x[images, channels, rows.view(n, 1, -1, 1), columns.view(n, 1, 1, -1)]

    def _places(self, n: int, side: int) -> Tensor:
        """Return for each of n pictures which rows, or columns, it is made of, (n, side)."""
        most = round(self.shift * side)
        moves = torch.randint(-most, most + 1, (n, 1))
        return (torch.arange(side) + moves).clamp(0, side - 1)

    def _mixed(self, x: Tensor) -> Tensor:
        shape = (len(x), 1, 1, 1)
        others = torch.rand(shape, dtype=x.dtype) * (torch.rand(shape) < self.mix)
        return torch.lerp(x, x.roll(1, 0), others.to(x))


def is_picture(x: Any) -> bool:
    """Whether an input looks like a batch of pictures.

    >>> is_picture(torch.zeros(5, 3, 32, 32)), is_picture(torch.zeros(5, 32, 7, 7)), is_picture(torch.zeros(5, 32))
    (True, False, False)
    """
    return (
        isinstance(x, Tensor)
        and x.ndim == 4
        and x.is_floating_point()
        and x.shape[1] <= 4
        and min(x.shape[2:]) >= SMALLEST
    )


def augmented(augment: Augment, flat: Sequence[Any], seed: int) -> list[Any]:
    """Return other inputs of the same shapes and types; the draws follow from the seed, and change none elsewhere.

    Raises:
        CalibrationError: what comes back is no such inputs.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = augment(*(x.clone() if isinstance(x, Tensor) else x for x in flat))
    others = [found] if len(flat) == 1 and not isinstance(found, list | tuple) else list(found)
    if len(others) != len(flat):
        raise CalibrationError(
            f"The augmentation {_name(augment)} returns {len(others)} inputs of {len(flat)}: return as many as it is "
            "given, in the same order."
        )
    for i, (x, other) in enumerate(zip(flat, others, strict=True)):
        if _form(x) != _form(other):
            raise CalibrationError(
                f"The augmentation {_name(augment)} makes {_form(other)} of input {i}, which is {_form(x)}: the "
                "network was traced with that shape and type, so keep both."
            )
        if isinstance(other, Tensor) and not (other < torch.inf).all() and bool((x < torch.inf).all()):
            raise CalibrationError(
                f"The augmentation {_name(augment)} makes values of input {i} that are not finite (NaN or inf)."
            )
    return others


def _name(augment: Augment) -> str:
    return str(getattr(augment, "__qualname__", type(augment).__name__))


def _form(x: Any) -> str:
    return f"{tuple(x.shape)} of {x.dtype}" if isinstance(x, Tensor) else f"a {type(x).__name__}"

"""Calibration data: any iterable of batches, as flat inputs of the traced program."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.graph import Program
from secateur.ground.devices import moved
from secateur.ground.errors import CalibrationError
from secateur.ground.inputs import plain
from secateur.ground.processes import processes, summed

__all__ = ["HELD_OUT", "Calibration", "counted"]

HELD_OUT = 4
"""One sample in this many is held out, on average: it chooses ridges and never fits weights."""


class Calibration:
    """Batches of a model's inputs that can be gone through several times.

    A batch is a tensor (the only input), a tuple or list of which the first elements are the positional inputs
    (labels behind them are ignored), or a mapping of keyword inputs, or for a model whose only input is a mapping
    that one (other keys are ignored, and options that are no tensors may be left out). An iterator, which could be
    gone through only once, has its inputs kept; every other iterable is iterated anew for each sweep.

    Which dimension of each input counts samples is the program's to say (`Program.batch_dims`); nothing else is ever
    cut or reordered. Where none does, a batch is one sample; so it is where the code fixes the batch size, for then
    no export can show that samples do not depend on one another.

    Which samples are held out, and all that is drawn at random while a batch is looked at, follows from their content
    alone: neither a loader that shuffles nor the way in which batches are dealt to several processes changes it.

    Raises (on iteration):
        CalibrationError: there is no batch, or one does not fit the example that was traced. One of several processes
            may have none.
    """

    def __init__(self, batches: Iterable[Any], program: Program) -> None:
        if isinstance(batches, Tensor):
            raise CalibrationError(
                "Calibration data must be an iterable of batches, not one tensor: pass images.split(100), or a "
                "DataLoader."
            )
        if not isinstance(batches, Iterable):
            raise CalibrationError(
                f"Calibration data must be an iterable of batches, not a {type(batches).__name__}: pass a list of "
                "batches, or a DataLoader."
            )
        self._batches = list(batches) if isinstance(batches, Iterator) else batches
        args, kwargs = program.example
        self._args, self._kwargs = tuple(args), dict(kwargs)
        self._example = pytree.tree_leaves((self._args, self._kwargs))
        self._dynamic, self._batch = program.dynamic, program.batch
        self._dims, self._batch_first = program.batch_dims, program.batch_first
        self._apart = program.dynamic and any(d is not None for d in program.batch_dims)
        self._free = [
            free if program.dynamic else frozenset(d for d in (dim,) if d is not None)
            for free, dim in zip(program.free, program.batch_dims, strict=True)
        ]

    @staticmethod
    def of(batches: Iterable[Any], program: Program) -> Calibration:
        """Return batches as calibration data of a program; those that are so already stay as they are."""
        return batches if isinstance(batches, Calibration) else Calibration(batches, program)

    def __iter__(self) -> Iterator[list[Any]]:
        return (flat for flat, _ in self.labelled())

    def labelled(self) -> Iterator[tuple[list[Any], Any]]:
        """Yield each batch with its labels: what stands behind the inputs, or the whole mapping; None without any.

        One thing behind the inputs is passed as it is, several as a tuple.
        """
        empty = True
        for number, batch in enumerate(self._batches):
            empty = False
            flat, labels = self._flatten(batch, number), self._beside(self._labels(batch))
            n = self.samples(flat)
            for piece in self._pieces(n, number):
                if piece is None:
                    yield flat, labels
                else:
                    yield self._taken(flat, piece, n), _cut(labels, piece, n)
        if empty and processes() == 1:
            raise CalibrationError(
                "The calibration data are empty: give at least one batch of inputs (an iterator may be used up)."
            )

    def samples(self, flat: list[Any]) -> int:
        """Return how many samples a batch of flat inputs holds."""
        return max((x.shape[d] for x, d in zip(flat, self._dims, strict=True) if d is not None), default=1)

    @property
    def batch_first(self) -> bool:
        """Whether samples lie along dimension 0 of the inputs, as they then do in what the network makes of them."""
        return self._batch_first

    def held_out(self) -> Iterator[tuple[list[Any], Tensor]]:
        """Yield each batch with a mask of its samples that are held out from fitting: about one in `HELD_OUT`.

        A sample's checksum decides: in another order, batch or process it is held out all the same, and so is its
        double. Where samples do not lie along dimension 0, those that are held out and the others come as two
        batches, each with a mask of one entry that stands for them all. So does that of a batch that is one sample.
        """
        for flat in self:
            held = torch.tensor(self._checksums(flat)) % HELD_OUT == HELD_OUT - 1
            if self.batch_first or len(held) == 1:
                yield flat, held
            else:
                parts = ((held == value, torch.tensor([value])) for value in (False, True))
                yield from ((self.take(flat, chosen), all_) for chosen, all_ in parts if bool(chosen.any()))

    def generator(self, flat: list[Any], seed: int) -> torch.Generator:
        """Return a generator for what is drawn in a batch: the same for the same samples and seed."""
        # One checksum of all: torch's generator on the processor looks at 32 bits of a seed.
        return torch.Generator().manual_seed(zlib.crc32(repr((seed, self._checksums(flat))).encode()))

    def take(self, flat: list[Any], chosen: Tensor) -> list[Any]:
        """Return the samples of a batch that a mask or an index chooses; one entry that stands for all gives all."""
        n = self.samples(flat)
        if not self._apart or (chosen.dtype == torch.bool and len(chosen) == 1 < n):
            return flat
        return self._taken(flat, chosen.nonzero()[:, 0] if chosen.dtype == torch.bool else chosen, n)

    def joined(self, parts: Sequence[list[Any]]) -> list[Any] | None:
        """Return several batches as one, or None where they differ in more than the number of samples."""
        if not self._apart:
            return None
        whole: list[Any] = []
        for i, d in enumerate(self._dims):
            values = [part[i] for part in parts]
            first = values[0]
            if not isinstance(first, Tensor) or d is None:
                same = first.equal if isinstance(first, Tensor) else first.__eq__
                if not all(same(value) is True for value in values):
                    return None
                whole.append(first)
                continue
            counted = all(x.shape[d] == self.samples(part) for x, part in zip(values, parts, strict=True))
            if not counted or len({(*x.shape[:d], *x.shape[d + 1 :]) for x in values}) > 1:
                return None
            whole.append(torch.cat(values, d))
        return whole

    def _taken(self, flat: list[Any], index: Tensor, n: int) -> list[Any]:
        return [
            x.index_select(d, index.to(x.device)) if d is not None and x.shape[d] == n else x
            for x, d in zip(flat, self._dims, strict=True)
        ]

    @property
    def dynamic(self) -> bool:
        """Whether batches may have any size."""
        return self._dynamic

    def _checksums(self, flat: list[Any]) -> list[int]:
        """Return a checksum of each sample over all inputs."""
        n = self.samples(flat) if self._apart else 1
        sums = [0] * n
        for x, d in zip(flat, self._dims, strict=True):
            if not isinstance(x, Tensor) or not x.numel():
                continue
            if not self._apart or (d is not None and x.shape[d] == n):
                rows = (x.movedim(d, 0) if d else x).detach().cpu().reshape(n, -1).contiguous()
                values = rows.view(torch.uint8).numpy()
                sums = [zlib.crc32(row, value) for row, value in zip(values, sums, strict=True)]
        return sums

    def _flatten(self, batch: Any, number: int) -> list[Any]:
        single = len(self._args) == 1 and not self._kwargs
        if isinstance(batch, Mapping) and single and isinstance(self._args[0], Mapping):
            batch = (batch,)
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        if isinstance(batch, Mapping):
            told = f"mapping with keys {sorted(map(str, batch))}"
            options = {k: v for k, v in self._kwargs.items() if not _tensors(v)}
            kwargs = {k: v for k, v in {**options, **batch}.items() if k in self._kwargs}
        else:
            told = f"{type(batch).__name__} that does not hold the inputs"
            given = (
                (batch,) if isinstance(batch, Tensor) else batch if isinstance(batch, list | tuple) else ()
            )
            args = tuple(given[: len(self._args)])
        if len(args) != len(self._args) or kwargs.keys() != self._kwargs.keys():
            raise CalibrationError(
                f"Calibration batch {number} is a {told}: the model was traced with {len(self._args)} positional "
                f"inputs and the keywords {list(self._kwargs)}."
            )
        kwargs = {k: kwargs[k] for k in self._kwargs}
        args, kwargs = _like((self._args, self._kwargs), (args, kwargs), number)
        flat = list(map(plain, pytree.tree_leaves((args, kwargs))))
        if len(flat) != len(self._example):
            raise CalibrationError(
                f"Calibration batch {number} has {len(flat)} inputs, the example {len(self._example)}."
            )
        for i, (x, example) in enumerate(zip(flat, self._example, strict=True)):
            self._check(x, example, i, number)
            if isinstance(example, Tensor) and x.device != example.device:
                flat[i] = moved(x, example.device)
        sizes = {
            x.shape[d]: i for i, (x, d) in enumerate(zip(flat, self._dims, strict=True)) if d is not None
        }
        if len(sizes.keys() - {1}) > 1:
            raise CalibrationError(
                f"The inputs of calibration batch {number} hold different numbers of samples, {sorted(sizes)}: "
                "give all of one batch, or say with batch_dims which of their dimensions count samples."
            )
        return flat

    def _check(self, x: Any, example: Any, i: int, number: int) -> None:
        if not isinstance(example, Tensor):
            return
        if not isinstance(x, Tensor):
            raise CalibrationError(
                f"Input {i} of calibration batch {number} is a {type(x).__name__}, not a tensor."
            )
        free, dim = self._free[i], self._dims[i]
        alike = x.ndim == example.ndim and all(
            d in free or x.shape[d] == n for d, n in enumerate(example.shape)
        )
        if not alike or any(x.shape[d] == 0 for d in free):
            expected = ", ".join(
                ("N" if d == dim else "any") if d in free else str(n) for d, n in enumerate(example.shape)
            )
            raise CalibrationError(
                f"Input {i} of calibration batch {number} has shape {tuple(x.shape)}; the model was traced with "
                f"({expected}). Give batches of the shape of the example, without changing other sizes."
            )
        if x.dtype != example.dtype:
            raise CalibrationError(
                f"Input {i} of calibration batch {number} is {x.dtype}, the example {example.dtype}: convert it first."
            )
        if x.is_floating_point() and not (x < torch.inf).all():  # -inf says in a mask what nobody may look at
            raise CalibrationError(
                f"Input {i} of calibration batch {number} has values that are not finite (NaN or inf)."
            )

    def _labels(self, batch: Any) -> Any:
        if isinstance(batch, Mapping):
            return batch
        behind = () if isinstance(batch, Tensor) else tuple(batch[len(self._args) :])
        return behind[0] if len(behind) == 1 else behind or None

    def _beside(self, labels: Any) -> Any:
        """Return labels on the device of the inputs, where losses compare them with outputs."""
        device = next((x.device for x in self._example if isinstance(x, Tensor)), None)
        return moved(labels, device)

    def _pieces(self, n: int, number: int) -> Iterator[Tensor | None]:
        """Cut a batch of n samples to the traced size where the program accepts no other; None: it stays whole."""
        if self._dynamic or n == self._batch:
            yield None
            return
        if n < self._batch:
            raise CalibrationError(
                f"Calibration batch {number} has {n} samples, but this model exports only with the batch size of the "
                f"example ({self._batch}): give batches of a multiple of it."
            )
        yield from (torch.arange(i, i + self._batch) for i in range(0, n - self._batch + 1, self._batch))


def counted(seen: Tensor) -> int:
    """Return the samples of all processes.

    Raises:
        CalibrationError: there are none.
    """
    if samples := int(summed(seen)):
        return samples
    raise CalibrationError(
        "The calibration data are empty in every process: give at least one batch of inputs."
    )


def _cut(values: Any, piece: Tensor, n: int) -> Any:
    """Return these entries of every tensor of n samples in a structure of labels."""
    return pytree.tree_map(
        lambda x: x[piece] if isinstance(x, Tensor) and x.ndim and len(x) == n else x, values
    )


def _like(example: Any, given: Any, number: int) -> Any:
    """Return what is given with its mappings in the form of the example's: the same keys, in the same order.

    Raises:
        CalibrationError: a key is missing.
    """
    if isinstance(example, Mapping) and isinstance(given, Mapping):
        missing = [k for k in example if k not in given]
        if missing:
            raise CalibrationError(
                f"Calibration batch {number} has no {missing[0]!r}, which the example has; its keys are "
                f"{sorted(map(str, given))}."
            )
        return {k: _like(v, given[k], number) for k, v in example.items()}
    if isinstance(example, list | tuple) and isinstance(given, list | tuple) and len(example) == len(given):
        return tuple(_like(e, g, number) for e, g in zip(example, given, strict=True))
    return given


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]

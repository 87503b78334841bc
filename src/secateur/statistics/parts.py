"""Going through a network in parts, so that the sums of one part are in memory at a time."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from secateur.ground.processes import in_step
from secateur.ground.progress import track

from .batches import Calibration, counted
from .forward import Forward, Paused
from .sums import PowerSum, SiteStatistics, SiteSum

__all__ = ["ByPart", "Event", "Parts"]

T = TypeVar("T")
Sum = TypeVar("Sum", SiteSum, PowerSum)


@dataclass(frozen=True)
class Event(Generic[Sum]):
    """A sum that is made at a node; it takes `size` bytes."""

    node: str
    size: int
    begin: Callable[[], Sum]


class ByPart(Mapping[str, T]):
    """What is found by one name is kept under another, and may have to be summed first."""

    def __init__(self, names: Mapping[str, str], find: Callable[[str], T]) -> None:
        self._names, self._find = names, find

    def __getitem__(self, name: str) -> T:
        return self._find(self._names[name])

    def __contains__(self, name: object) -> bool:  # without summing anything
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class _Batch:
    """A batch on its way: where it is, which of its samples are held out, and what it draws from."""

    paused: Paused
    samples: int
    held: Tensor
    seed: int


class Parts:
    """The sums of sites (before a node runs) and powers (of what it makes), one part of the network at a time.

    The first part is summed at once. A part that is asked for behind the last one goes on where the batches are; any
    other starts from the inputs again. Processes must ask alike.

    Raises:
        CalibrationError: there are no data; at any part, activations are not finite or another process has failed.
    """

    def __init__(
        self,
        forward: Forward,
        calibration: Calibration,
        sites: Sequence[Event[SiteSum]],
        powers: Sequence[Event[PowerSum]],
        memory: int,
        seed: int,
    ) -> None:
        self._forward, self._calibration, self._seed = forward, calibration, seed
        self._sites = {event.node: event for event in sites}
        self._powers = {event.node: event for event in powers}
        nodes = [name for name in forward.order if name in self._sites or name in self._powers]
        self._parts = _packed(nodes, {n: e.size for n, e in self._sites.items()}, memory)
        self._part_of = {node: k for k, part in enumerate(self._parts) for node in part}
        self._waiting: deque[_Batch] = deque()
        self._found: dict[str, SiteStatistics] = {}
        self._power: dict[str, float] = {}
        self._current = -1
        self.samples = self._sum(0)

    def site(self, node: str) -> SiteStatistics:
        """Return the moments of what is read at a node; its part's are then there, another's are not."""
        if node not in self._found:
            self._sum(self._part_of[node])
        return self._found[node]

    def power(self, node: str) -> float:
        """Return the power of what a node makes."""
        if node not in self._power:
            self._sum(self._part_of[node])
        return self._power[node]

    def release(self) -> None:
        """Forget the sums that are there if they are of one part of several, and what else only waits to be collected.

        Traced programs and modules refer to one another in circles, which may keep copies of all weights alive.
        """
        if len(self._parts) > 1:
            self._found, self._current = {}, -1
            self._waiting.clear()
            gc.collect()

    def _sum(self, k: int) -> int:
        """Sum a part over all data; return the number of samples."""
        nodes = self._parts[k]
        self._found = {}  # before the next ones are made
        sites = {n: self._sites[n].begin() for n in nodes if n in self._sites}
        powers = {n: self._powers[n].begin() for n in nodes if n in self._powers}
        last = k + 1 == len(self._parts)
        seen = torch.zeros((), dtype=torch.int64)
        behind: deque[_Batch] = deque()
        label = "statistics" if len(self._parts) == 1 else f"statistics, part {k + 1} of {len(self._parts)}"
        with in_step():
            for batch in track(self._batches(k), label):
                generator = torch.Generator().manual_seed(batch.seed)
                seen += batch.samples
                for site in sites.values():
                    site.begin(batch.held, generator)
                for power in powers.values():
                    power.begin(batch.held, generator)
                if last and k == 0:
                    self._forward.run(batch.paused.inputs, sites, powers)
                else:
                    paused = self._forward.advance(batch.paused, sites, powers, nodes[-1])
                    if not last:
                        behind.append(replace(batch, paused=paused))
        self._waiting, self._current = behind, k
        while sites:  # a sum is gone once its moments are there
            node, total = sites.popitem()
            self._found[node] = total.statistics()
        self._power |= {node: power.value() for node, power in powers.items()}
        return counted(seen)

    def _batches(self, k: int) -> Iterator[_Batch]:
        """Yield the batches in front of a part."""
        if k and k == self._current + 1:
            while self._waiting:
                yield self._waiting.popleft()
            return
        self._waiting.clear()
        for inputs, held in self._calibration.held_out():
            seed = self._calibration.generator(inputs, self._seed).initial_seed()
            order = held.argsort(stable=True)  # so that no part of an activation has to be copied
            paused = Paused(self._calibration.take(inputs, order) if len(order) > 1 else inputs)
            if k:
                paused = self._forward.advance(paused, {}, {}, self._parts[k - 1][-1])
            yield _Batch(paused, self._calibration.samples(inputs), held[order], seed)


def _packed(nodes: Sequence[str], sizes: Mapping[str, int], memory: int) -> list[list[str]]:
    """Return the nodes in parts whose sums fit into memory, where a single one does."""
    parts: list[list[str]] = [[]]
    room = memory
    for node in nodes:
        size = sizes.get(node, 0)
        if parts[-1] and size > room:
            parts.append([])
            room = memory
        parts[-1].append(node)
        room -= size
    return parts

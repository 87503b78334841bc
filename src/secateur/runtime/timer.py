"""Timers of networks with blocks: what the compiled network takes, and each of its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import nn

from secateur.ground.inputs import Example
from secateur.measure import Stopwatch
from secateur.measure.store import cache_folder

from .compiled import compile

__all__ = ["BlockTimer", "CompiledTimer", "TimedLayers"]


@dataclass(frozen=True)
class TimedLayers:
    """A network as it is run, and the milliseconds of those of its layers that zero blocks can make faster."""

    network: nn.Module
    layers: Mapping[str, float]  # by the path of the layer's module


@runtime_checkable
class BlockTimer(Protocol):
    """Says how long networks with blocks take, with the threads that torch has now."""

    def compile(self, model: nn.Module, inputs: Example) -> TimedLayers:
        """Return the network as it is run on such inputs, and what its layers take."""
        ...

    def models(self, networks: Sequence[nn.Module], inputs: Example) -> Sequence[float]:
        """Return the median milliseconds of each network that `compile` returned, run in turns."""
        ...


@dataclass(frozen=True)
class CompiledTimer:
    """Times what `secateur.runtime.compile` makes on this machine; times of layers are kept in `folder`.

    >>> import torch
    >>> timed = CompiledTimer().compile(nn.Sequential(nn.Linear(64, 64)).eval(), (torch.ones(1, 64),))
    >>> set(timed.layers) <= {"0"}
    True
    """

    folder: Path = field(default_factory=cache_folder)
    stopwatch: Stopwatch = field(default_factory=Stopwatch)

    def compile(self, model: nn.Module, inputs: Example) -> TimedLayers:
        """Return the compiled network, and of each layer that has kernels to choose from what the fastest takes."""
        network = compile(model, inputs, folder=self.folder)
        layers: dict[str, float] = {}
        for choice in network.choices:
            if choice.ms:  # a module that is called twice takes both times
                layers[choice.layer] = layers.get(choice.layer, 0.0) + min(choice.ms.values())
        return TimedLayers(network, layers)

    def models(self, networks: Sequence[nn.Module], inputs: Example) -> Sequence[float]:
        """Return the median milliseconds of each network, run in turns."""
        return self.stopwatch.models(networks, inputs)

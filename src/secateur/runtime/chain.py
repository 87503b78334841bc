"""Chain: layers of the kernels that follow each other as one call, their memory planned once for each input shape."""

from __future__ import annotations

import ctypes
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from secateur.ground.errors import KernelError

from .choose import medians
from .library import Library, Place, Step
from .memory import Memory
from .modules import SparseConv2d, SparseLinear
from .ops import found_library
from .pool import MaxPool2d, pool_form
from .run import FORMS, Prepared, checked, conv_form, linear_form, succeed

__all__ = ["Chain", "find_chains", "part_sizes", "placed", "time_parts"]

LINE = 16  # floats of a cache line
OUTPUT, ARENA, INPUTS = 0, 1, 2  # the pieces of memory of a call; inputs follow
NOWHERE = Place(0, -1)


@dataclass(frozen=True)
class _Plan:
    """The steps for inputs of given shapes, and what they point to."""

    steps: ctypes.Array[Step]
    shape: tuple[int, ...]  # of the output
    floats: int  # of what is handed on
    images: bool  # whether the first dimension counts samples that have nothing to do with each other
    made: tuple[Prepared | None, ...]  # by layer
    alive: list[Any]


class Chain(nn.Module):
    """Layers of which each reads inputs of the chain or outputs of earlier ones; the last one's output is the result.

    ``reads`` has for each layer the numbers of what it reads (input, residual): the inputs come first, then the outputs
    of the layers. A batch goes through all layers ``at_once`` samples at a time (None: whole), so that what is handed
    on stays in the cache. What is traced, and machines without kernels, take the layers one by one.

    >>> from secateur.runtime.geometry import Window
    >>> window = MaxPool2d(Window((2, 2), (2, 2)))
    >>> chain = Chain([window, window], [(0,), (1,)], 1, Memory())
    >>> chain(torch.randn(2, 3, 8, 8)).shape
    torch.Size([2, 3, 2, 2])
    """

    def __init__(
        self, layers: Sequence[nn.Module], reads: Sequence[tuple[int, ...]], inputs: int, memory: Memory
    ) -> None:
        super().__init__()
        self.layers, self.reads = nn.ModuleList(layers), tuple(reads)
        self.inputs, self.memory = inputs, memory
        self.at_once: int | None = None
        self._plans: dict[tuple[torch.Size, ...], _Plan] = {}

    def forward(self, *inputs: Tensor) -> Tensor:
        """Run the layers on float32 inputs."""
        direct = all(type(x) is Tensor for x in inputs) and not torch.compiler.is_compiling()
        if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
            direct = False  # the layers say what there is to say
        library = found_library().library if direct else None
        if library is None:
            values = list(inputs)
            for layer, reads in zip(self.layers, self.reads):
                values.append(layer(*(values[i] for i in reads)))
            return values[-1]
        inputs = tuple([checked(x, "input") for x in inputs])
        plan = self._plan(tuple([x.shape for x in inputs]))
        y = self.memory.empty(plan.shape)
        if not y.numel():
            return y
        batch = plan.shape[0]
        if self.at_once is None or self.at_once >= batch or not plan.images:
            self._run(library, plan, y, inputs)
        else:
            for part in zip(y.split(self.at_once), *[x.split(self.at_once) for x in inputs]):
                self._run(library, self._plan(tuple([x.shape for x in part[1:]])), part[0], part[1:])
        return y

    def _run(self, library: Library, plan: _Plan, y: Tensor, inputs: Sequence[Tensor]) -> None:
        arena = self.memory.empty((plan.floats,))
        pieces = (ctypes.c_void_p * (INPUTS + len(inputs)))(
            y.data_ptr(), arena.data_ptr(), *[x.data_ptr() for x in inputs]
        )
        succeed(library.handle.secateur_chain(plan.steps, len(plan.steps), pieces, torch.get_num_threads()))

    def _plan(self, shapes: tuple[torch.Size, ...]) -> _Plan:
        found = self._plans.get(shapes)
        made = tuple([getattr(layer, "_made", None) for layer in self.layers])
        if found is None or any(a is not b for a, b in zip(found.made, made)):  # weights may have been loaded
            if len(self._plans) >= FORMS:  # inputs of ever new sizes
                self._plans.clear()
            found = self._plans[shapes] = self._made(shapes)
        return found

    def _made(self, inputs: tuple[torch.Size, ...]) -> _Plan:
        """Plan the steps.

        Raises:
            KernelError: inputs of these shapes cannot be taken.
        """
        shapes: list[tuple[int, ...]] = [tuple(s) for s in inputs]
        steps, made, alive = (Step * len(self.layers))(), list[Prepared | None](), list[Any]()
        for step, layer, reads in zip(steps, self.layers, self.reads):
            prepared: Any = None
            if isinstance(layer, MaxPool2d):
                pool, shape, step.count = pool_form(layer.window, shapes[reads[0]])
                step.pool = ctypes.addressof(pool)
                alive.append(pool)
            else:
                assert isinstance(layer, SparseConv2d | SparseLinear)
                prepared = layer.ready()
                if isinstance(layer, SparseConv2d):
                    form, shape, step.count = conv_form(prepared, layer.window, shapes[reads[0]])
                    assert form.conv is not None
                    step.conv = ctypes.addressof(form.conv)
                else:
                    form, shape, step.count = linear_form(prepared, shapes[reads[0]])
                step.matrix = ctypes.addressof(form.matrix)
                alive.append(form)
            if any(shapes[i] != shape for i in reads[1:]):
                raise KernelError(f"The residual has shape {shapes[reads[1]]}, the output {shape}.")
            made.append(prepared)
            shapes.append(shape)
        offsets, floats = placed([math.prod(s) for s in shapes[self.inputs :]], self._last_reads())
        places = [Place(0, INPUTS + i) for i in range(self.inputs)]
        places += [Place(offset, ARENA) for offset in offsets] + [Place(0, OUTPUT)]
        for k, (step, reads) in enumerate(zip(steps, self.reads)):
            step.x, step.y = places[reads[0]], places[self.inputs + k]
            step.residual = places[reads[1]] if len(reads) > 1 else NOWHERE
        images = len({s[0] for s in shapes}) == 1 and all(
            len(shapes[reads[0]]) == 4 or not isinstance(layer, SparseConv2d)  # 3: one image, without a batch
            for layer, reads in zip(self.layers, self.reads)
        )
        return _Plan(steps, shapes[-1], max(floats, 1), images, tuple(made), alive)

    def extra_repr(self) -> str:
        """Say how a batch goes through."""
        return "the whole batch" if self.at_once is None else f"{self.at_once} samples at a time"

    def key(self, shapes: Sequence[Sequence[int]]) -> str:
        """Return a text that two chains share only if they take the same time."""
        parts = [
            (repr(layer), getattr(layer, "window", None), reads)
            for layer, reads in zip(self.layers, self.reads)
        ]
        return f"chain {hashlib.sha256(repr((parts, *map(tuple, shapes))).encode()).hexdigest()[:16]}"

    def _last_reads(self) -> list[int]:
        """Return for each layer the last one that reads its output."""
        last = list(range(len(self.layers)))
        for k, reads in enumerate(self.reads):
            for i in reads:
                if i >= self.inputs:
                    last[i - self.inputs] = k
        return last

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_plans": {}}  # pointers are not copied


def part_sizes(batch: int) -> list[int | None]:
    """Return how many samples may go through at a time: all (None), or powers of two.

    >>> part_sizes(6)
    [None, 1, 2, 4]
    """
    return [None, *(1 << i for i in range((batch - 1).bit_length()))]


@torch.inference_mode()
def time_parts(chain: Chain, shapes: Sequence[Sequence[int]]) -> dict[int | None, float]:
    """Return the milliseconds that random inputs take by how many samples go through at a time."""
    rng = torch.Generator().manual_seed(0)
    inputs = [torch.rand(tuple(shape), generator=rng) for shape in shapes]

    def call(at_once: int | None) -> None:
        chain.at_once = at_once
        chain(*inputs)

    return medians({size: partial(call, size) for size in part_sizes(len(inputs[0]))})


def placed(sizes: Sequence[int], last: Sequence[int]) -> tuple[list[int], int]:
    """Return offsets of all outputs but the last, and the floats that they take: each where it fits first.

    >>> placed([100, 50, 100, 10], [1, 2, 3, 3])  # the third lies where the first was
    ([0, 112, 0], 176)
    """
    offsets: list[int] = []
    ends: list[int] = []
    for k, size in enumerate(sizes[:-1]):
        offset = 0
        # What is read by this layer is still there while it writes.
        for i in sorted((i for i in range(k) if last[i] >= k), key=offsets.__getitem__):
            if offset + size <= offsets[i]:
                break
            offset = max(offset, ends[i])
        offsets.append(offset)
        ends.append(-(-(offset + size) // LINE) * LINE)
    return offsets, max(ends, default=0)


def find_chains(module: GraphModule) -> Iterator[list[Node]]:
    """Yield calls of two or more layers that can be one: nothing but the last output is read elsewhere."""
    layers: Mapping[str, nn.Module] = dict(module.named_modules())
    run: list[Node] = []
    for node in [*module.graph.nodes]:
        layer = layers.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, SparseConv2d | SparseLinear | MaxPool2d):
            run.append(node)
        elif node.op != "get_attr":
            yield from _pieces(run)
            run = []


def _pieces(run: Sequence[Node]) -> Iterator[list[Node]]:
    """Yield the longest chains of calls that follow each other."""
    start = 0
    while start < len(run):
        for stop in range(len(run), start, -1):
            inside = set(run[start:stop])
            if all(user in inside for node in run[start : stop - 1] for user in node.users):
                break
        if stop - start > 1:
            yield list(run[start:stop])
        start = stop

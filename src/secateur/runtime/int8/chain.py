"""Int8Chain: steps that follow each other as one call, their memory planned once for each form of inputs."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.ground.errors import KernelError

from ..chain import ARENA, INPUTS, NOWHERE, OUTPUT, placed
from ..library import Int8Step, Library, Place
from ..pool import pool_form
from ..run import FORMS, succeed
from .levels import Int8Tensor, Levels
from .modules import Int8SparseConv2d, Int8SparseLinear
from .pointwise import kernels_for, sum_form
from .pool import Int8AveragePool2d, Int8MaxPool2d, average_form, whole_window
from .run import checked_words, int8_conv_form, int8_linear_form
from .steps import Int8Add, Int8Features, Int8GlobalAverage, Int8Requantise
from .tables import table_of

__all__ = ["Int8Chain"]

Form = tuple[torch.Size, int, Levels, bool]


@dataclass(frozen=True)
class _Plan:
    """The steps for inputs of given forms, and what they point to."""

    steps: ctypes.Array[Int8Step]
    result: Int8Tensor | Tensor  # of the run with which the plan was made
    words: int  # of what is handed on
    made: tuple[Any, ...]  # by layer
    alive: list[Any]


class Int8Chain(nn.Module):
    """Steps of which each reads inputs of the chain or outputs of earlier ones; the last one's output is the result.

    ``reads`` has for each step the numbers of what it reads (input, then residual or second term): the inputs come
    first, then the outputs of the steps. The first call on inputs of a form runs the steps one by one; from then on
    they are one call of the kernels. What is traced, and machines without kernels, take them one by one always.

    >>> levels = Levels(0.1, 128)
    >>> chain = Int8Chain([Int8Requantise(Levels(0.2, 128)), Int8Add(levels)], [(0,), (0, 1)])
    >>> x = Int8Tensor.of_features(torch.tensor([[1.0, 2.0]]), levels)
    >>> [chain(x).reals().tolist() for _ in range(2)]
    [[[2.0, 4.0]], [[2.0, 4.0]]]
    """

    def __init__(
        self, layers: Sequence[nn.Module], reads: Sequence[tuple[int, ...]], inputs: int = 1
    ) -> None:
        super().__init__()
        for layer in layers:
            if not isinstance(layer, STEPS):
                raise KernelError(
                    f"{type(layer).__name__} is no step of an int8 chain; steps are "
                    f"{', '.join(step.__name__ for step in STEPS)}."
                )
        for number, read in enumerate(reads):
            if not all(0 <= i < inputs + number for i in read):
                raise KernelError(
                    f"Step {number} of the chain reads {read}, of which some are not there before it."
                )
        self.layers, self.reads, self.inputs = nn.ModuleList(layers), tuple(reads), inputs
        self._plans: dict[tuple[Form, ...], _Plan] = {}

    def forward(self, *inputs: Int8Tensor) -> Int8Tensor | Tensor:
        """Run the steps."""
        library = kernels_for(*[x.words for x in inputs])
        if library is None:
            result: Int8Tensor | Tensor = self._one_by_one(inputs)[-1]
            return result
        inputs = tuple([x.with_words(checked_words(x.words, "input")) for x in inputs])
        key = tuple([(x.words.shape, x.channels, x.levels, x.images) for x in inputs])
        plan = self._plans.get(key)
        made = tuple([getattr(layer, "_made", None) for layer in self.layers])
        if plan is None or any(a is not b for a, b in zip(plan.made, made)):  # weights may have been loaded
            if len(self._plans) >= FORMS:  # inputs of ever new sizes
                self._plans.clear()
            plan = self._plans[key] = self._planned(library, inputs)
        given = plan.result.words if isinstance(plan.result, Int8Tensor) else plan.result
        y, arena = torch.empty_like(given), torch.empty(plan.words, dtype=torch.int32)
        if y.numel():
            pieces = (ctypes.c_void_p * (INPUTS + len(inputs)))(
                y.data_ptr(), arena.data_ptr(), *[x.words.data_ptr() for x in inputs]
            )
            succeed(
                library.handle.secateur_int8_chain(
                    plan.steps, len(plan.steps), pieces, torch.get_num_threads()
                )
            )
        if isinstance(plan.result, Int8Tensor):
            return plan.result.with_words(y)
        return self.layers[-1].result(y, images=False)  # type: ignore[operator, no-any-return]

    def _one_by_one(self, inputs: Sequence[Int8Tensor]) -> list[Any]:
        """Return the inputs and the outputs of all steps."""
        values: list[Any] = list(inputs)
        for layer, reads in zip(self.layers, self.reads):
            values.append(layer(*(values[i] for i in reads)))
        return values

    def _planned(self, library: Library, inputs: Sequence[Int8Tensor]) -> _Plan:
        values = self._one_by_one(inputs)
        count = len(inputs)
        # Where each value lies: images as features lie where the images do.
        home = list(range(len(values)))
        kept = []
        for number, (layer, reads) in enumerate(zip(self.layers, self.reads)):
            if isinstance(layer, Int8Features):
                home[count + number] = home[reads[0]]
            else:
                kept.append(number)
        if not kept or home[-1] != count + kept[-1]:
            raise KernelError("A chain ends with a step that computes something, and not with Int8Features.")
        position = {count + number: k for k, number in enumerate(kept)}
        last = [0] * len(kept)
        for k, number in enumerate(kept):
            for i in self.reads[number]:
                if home[i] >= count:
                    last[position[home[i]]] = k
        sizes = [_words(values[count + number]) for number in kept]
        offsets, total = placed(sizes, last)
        steps, alive = (Int8Step * len(kept))(), list[Any]()

        def place(value: int) -> Place:
            at = home[value]
            return Place(0, INPUTS + at) if at < count else Place(offsets[position[at]], ARENA)

        for k, number in enumerate(kept):
            reads = self.reads[number]
            _fill(steps[k], library, self.layers[number], [values[i] for i in reads], alive)
            steps[k].x = place(reads[0])
            steps[k].other = place(reads[1]) if len(reads) > 1 else NOWHERE
            steps[k].y = place(count + number) if k < len(kept) - 1 else Place(0, OUTPUT)
        made = tuple([getattr(layer, "_made", None) for layer in self.layers])
        return _Plan(steps, values[-1], total, made, alive)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_plans": {}}  # pointers are not copied


STEPS = (
    Int8SparseConv2d, Int8SparseLinear, Int8MaxPool2d, Int8AveragePool2d, Int8GlobalAverage, Int8Add, Int8Requantise,
    Int8Features,
)  # fmt: skip
"""What a chain takes."""


def _words(value: Int8Tensor | Tensor) -> int:
    """Return how many units of four bytes a value takes."""
    return value.words.numel() // 4 if isinstance(value, Int8Tensor) else value.numel()


def _fill(
    step: Int8Step, library: Library, layer: nn.Module, given: Sequence[Int8Tensor], alive: list[Any]
) -> None:
    """Fill in what a step computes, and keep alive what it points to."""
    x = given[0]
    structures: dict[str, Any] = {}
    match layer:
        case Int8SparseConv2d():
            form, _, step.count = int8_conv_form(library, layer.ready(), layer.window, x.words.shape)
            structures = {"matrix": form.matrix, "conv": form.conv}
            alive.append(form)
        case Int8SparseLinear():
            form, _, step.count = int8_linear_form(library, layer.ready(), x.words.shape)
            structures = {"matrix": form.matrix}
            alive.append(form)
        case Int8MaxPool2d() | Int8AveragePool2d() | Int8GlobalAverage():
            window = whole_window(x) if isinstance(layer, Int8GlobalAverage) else layer.window
            pool, _, step.count = pool_form(window, x.words.shape[:4])
            structures = {"pool": pool}
            if not isinstance(layer, Int8MaxPool2d):
                padded = isinstance(layer, Int8AveragePool2d) and layer.count_padding
                structures["average"] = average_form(x.levels, layer.y, padded)
        case Int8Add():
            structures = {"sum": sum_form(x.levels, given[1].levels, layer.y, layer.activation)}
            step.count = _words(x)
        case Int8Requantise():
            table = table_of(x.levels, layer.y, layer.activation)
            step.table, step.count = table.data_ptr(), _words(x)
            alive.append(table)
    for name, structure in structures.items():
        setattr(step, name, ctypes.addressof(structure))
        alive.append(structure)

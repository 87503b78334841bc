"""Latency budgets of micro-structures: each layer's share of zero blocks, by what the kernels take at some shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from secateur.blocks import Costs
from secateur.ground.errors import BudgetError
from secateur.ground.inputs import Example
from secateur.ground.processes import in_step, processes, summed
from secateur.ground.progress import track
from secateur.runtime.timer import BlockTimer
from secateur.selection import Budget
from secateur.selection.settle import settle

__all__ = ["shares_within_latency"]

SHARES = torch.arange(20, dtype=torch.float64) / 20  # 0, 5 %, ... 95 %
TIMED = (0, 10, 14, 16, 18, 19)  # of these the kernels are timed; the others lie on lines in between


def shares_within_latency(
    reference: nn.Module,
    costs: Mapping[str, Costs],
    filled: Callable[[Mapping[str, float]], nn.Module],
    budget: Budget,
    example: Example,
    timer: BlockTimer,
) -> dict[str, float]:
    """Return the share of zero blocks of each weight with which the compiled network keeps to a latency budget.

    `reference` is the dense network as the timer runs it, `filled` makes one with given shares. That is compiled and
    timed with some shares, the same in all layers: that is the table, milliseconds by layer and share. The shares are
    then those of the least error, summed over layers as a share of each one's energy, that the table lets through: for
    a price of a millisecond each layer has its best share (the Lagrange multiplier of the budget), and bisection finds
    the price. What the kernels do not run stays whole. The network so made is timed beside the reference, and the
    target that the table is given is corrected until what was measured fits.

    Raises:
        BudgetError: with 95 % of each layer's blocks at zero it still takes longer, or no kernel runs any layer.
    """
    with in_step():
        timed = [
            timer.compile(filled(dict.fromkeys(costs, float(SHARES[k]))), example)
            for k in track(TIMED, "timing blocks")
        ]
        dense_ms, start_ms = _agreed(timer.models([reference, timed[0].network], example))
    table = _Table.of(
        costs, [_agreed([t.layers.get(_owner(n), 0.0) for n in costs]) for t in timed], start_ms
    )
    low, high = table.total(table.cheapest(float("inf"))), table.total(table.cheapest(0.0))
    if low >= high:
        raise BudgetError(
            f"The budget of {budget} is out of reach: no layer of this model is faster with zero blocks here. Remedy: "
            "print(secateur.runtime.compile(model, example_inputs)) says by what each layer is run, and why."
        )
    measured: dict[tuple[int, ...], tuple[float, float]] = {}
    tried: dict[float, Tensor] = {}

    def level(target: float) -> float:
        tried[target] = steps = table.within(max(target, low))
        key = tuple(steps.tolist())
        if key not in measured:
            network = timer.compile(filled(table.shares(steps)), example).network
            with in_step():
                first, second = _agreed(timer.models([reference, network], example))
            measured[key] = (first, second)
        first, second = measured[key]
        return second / budget.absolute(first)

    target = settle(level, 0.975 * budget.absolute(dense_ms), low, high)
    if target is None:
        first, second = measured[tuple(tried[low].tolist())]
        raise BudgetError(
            f"The budget of {budget} is out of reach: with 95 % of the blocks at zero the compiled model takes "
            f"{second:.3g} ms, dense {first:.3g}. Remedy: ask for more, let fewer layers stay "
            "whole (skip), or prune units first."
        )
    return table.shares(tried[target])


@dataclass(frozen=True)
class _Table:
    """Errors and milliseconds of layers, (layers, shares), and what the network takes with no zero blocks."""

    names: Sequence[str]
    errors: Tensor
    ms: Tensor
    start: float

    @staticmethod
    def of(costs: Mapping[str, Costs], columns: Sequence[Sequence[float]], start: float) -> _Table:
        times = torch.tensor(columns, dtype=torch.float64).T.cummin(1).values  # what noise made slower is not
        between = [torch.linspace(0, 1, b - a + 1, dtype=torch.float64)[:-1] for a, b in pairwise(TIMED)]
        lines = [
            torch.cat(
                [*(p + (q - p) * x for (p, q), x in zip(pairwise(row), between, strict=True)), row[-1:]]
            )
            for row in times
        ]
        return _Table(
            list(costs), torch.stack([_errors(c) for c in costs.values()]), torch.stack(lines), start
        )

    def cheapest(self, price: float) -> Tensor:
        """Return the share's index of each layer with the least error at a price of a millisecond."""
        if price == float("inf"):
            return self.ms.argmin(1)
        return (self.errors + price * self.ms).argmin(1)

    def total(self, steps: Tensor) -> float:
        """Return the milliseconds of the network."""
        return self.start + float((self.ms.gather(1, steps[:, None])[:, 0] - self.ms[:, 0]).sum())

    def within(self, target: float) -> Tensor:
        """Return the indices of the least error whose total is at most `target`, which is in reach."""
        low, high = 0.0, 1e-9
        while self.total(self.cheapest(high)) > target:
            low, high = high, 10 * high
            if high > 1e30:
                return self.cheapest(float("inf"))
        for _ in range(60):
            middle = (low + high) / 2
            if self.total(self.cheapest(middle)) > target:
                low = middle
            else:
                high = middle
        # Prices reach convex hulls only; what is still free goes to the layers that differ on both sides of the price.
        slow, steps = self.cheapest(low), self.cheapest(high)
        for layer in (slow != steps).nonzero()[:, 0].tolist():
            for step in range(int(slow[layer]), int(steps[layer])):
                less = steps.clone()
                less[layer] = step
                if self.total(less) <= target:
                    steps = less
                    break
        return steps

    def shares(self, steps: Tensor) -> dict[str, float]:
        return dict(zip(self.names, SHARES[steps].tolist(), strict=True))


def _errors(costs: Costs) -> Tensor:
    """Return the error with each share of blocks at zero, the cheapest first, as a share of the layer's energy."""
    total = torch.cat([costs.zero.new_zeros(1), costs.zero.double().sort().values.cumsum(0)])
    return total[(SHARES * len(costs.zero) + 0.5).floor().long()] / costs.energy.sum().clamp_min(1e-300)


def _owner(weight: str) -> str:
    return weight.rpartition(".")[0]


def _agreed(times: Sequence[float]) -> list[float]:
    """Return the mean over all processes, so that all of them decide alike."""
    mean: list[float] = (summed(torch.tensor(times, dtype=torch.float64)) / processes()).tolist()
    return mean

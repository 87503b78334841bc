"""After connections are gone: the network without the units that nothing feeds or nothing reads, the same otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from secateur.case import Case
from secateur.graph import Graph, Kept
from secateur.graph.trace import traced
from secateur.ground.errors import SurgeryError, TraceError
from secateur.ground.inputs import Example, Inputs
from secateur.ground.progress import working
from secateur.report import Sparsity, frozen_parts
from secateur.selection import Budget
from secateur.statistics import state_tensors
from secateur.surgery import Plan, Verification, apply, verify
from secateur.surgery.candidates import Candidates, tried
from secateur.surgery.dead import Settled, settle
from secateur.surgery.values import repaired

from .protocol import Draft, Evidence, Needs

__all__ = ["DeadUnits", "Removal", "without_dead_units"]


@dataclass(frozen=True)
class Removal:
    """A network without dead units, the plan that makes it from the one that was given, and how far they differ."""

    model: nn.Module
    plan: Plan
    verification: Verification
    units: Mapping[str, tuple[int, int]]  # by group: units kept, units before
    folded: int  # units that were constants, now part of a bias
    refused: Mapping[str, str]  # groups that the model's code does not let shrink

    @property
    def units_left(self) -> int:
        """How many units are kept, over all groups."""
        return sum(kept for kept, _ in self.units.values())


def without_dead_units(model: nn.Module, example_inputs: Example) -> Removal:
    """Return a copy of a sparse model without the units that nothing reads, and without constants that can be folded.

    Nothing is repaired and nothing is lost: outputs are the same within float tolerance, which is verified on the
    example inputs. Units that read only zeros are constants: their value moves into the bias of what reads them (or
    the running mean of the BatchNorm behind it), unless zero padding would make it differ at borders.

    Raises:
        TraceError: the model cannot be exported.
        SurgeryError: the smaller model does not compute what was promised.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    >>> with torch.no_grad():
    ...     _ = net[2].weight[:, 0].zero_()  # nothing reads the first unit,
    ...     _ = net[0].weight[1].zero_()  # and nothing feeds the second
    >>> without_dead_units(net, torch.zeros(1, 4)).model
    Sequential(
      (0): Linear(in_features=4, out_features=1, bias=True)
      (1): ReLU()
      (2): Linear(in_features=1, out_features=2, bias=True)
    )
    """
    inputs = Inputs.of(example_inputs).beside(model)
    return _removed(model, traced(model, inputs), inputs)


@dataclass(frozen=True)
class DeadUnits:
    """Remove the units that nothing reads, and those that are constants, exactly: see `without_dead_units`.

    >>> import torch, secateur as sc
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    >>> with torch.no_grad():
    ...     _ = net[2].weight[:, 0].zero_()
    >>> sc.prune(net, torch.zeros(1, 4), method=sc.DeadUnits()).model[0].out_features
    2
    """

    @property
    def label(self) -> str:
        """What reports call it."""
        return "removal of dead units"

    @property
    def needs(self) -> Needs:
        """What it has to be given: nothing."""
        return Needs(budgets=(), result=False)

    def draft(self, case: Case, budget: Budget | None) -> Draft:
        """Return the model without dead units.

        Raises:
            TraceError: the model cannot be exported.
            SurgeryError: the smaller model does not compute what was promised.
        """
        with case.phase("removal"), working("removing dead units"):
            removal = _removed(case.model, case.graph, case.inputs)
        evidence = Evidence(
            removal.verification.max_difference,
            removal.units,
            refused=removal.refused,
            frozen=frozen_parts(case.graph.frozen),
            sparsity=Sparsity.of(case.model, removal.model),
        )
        plan = case.onwards(removal.plan, removal.model)
        return Draft(removal.model, plan, evidence=evidence, budget="exact")


def _removed(model: nn.Module, graph: Graph, inputs: Inputs) -> Removal:
    settled = settle(graph, state_tensors(graph.program))
    refused: dict[str, str] = {}
    try:
        found = _cut(model, graph, settled.kept, settled, inputs)
    except (SurgeryError, TraceError):
        losing = Candidates(tuple(graph.group(id) for id in settled.kept), {})
        left = tried(model, graph, losing)
        if left == losing:
            raise
        refused = dict(left.refused)
        found = _cut(model, graph, _allowed(settled.kept, left), settled, inputs)
    smaller, final, verification = found
    units = {g.id: (len(final.kept.get(g.id, range(g.size))), g.size) for g in graph.groups}
    return Removal(smaller, final, verification, units, settled.folded, refused)


def _cut(
    model: nn.Module, graph: Graph, kept: Kept, settled: Settled, inputs: Inputs
) -> tuple[nn.Module, Plan, Verification]:
    final = repaired(model, graph, kept, settled.tensors)
    smaller = apply(model, final)
    return smaller, final, verify(model, smaller, graph, kept, inputs.args, inputs.kwargs)


def _allowed(kept: Kept, left: Candidates) -> Kept:
    """Return the selection without groups that cannot shrink; branches that cannot go keep a unit."""
    groups = {g.id: g for g in left.groups}
    return {
        id: units if units or groups[id].removable else (0,) for id, units in kept.items() if id in groups
    }

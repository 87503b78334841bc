"""Find out before any selection which groups the eager model can lose units of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from secateur.graph.graph import Graph
from secateur.graph.groups import Group, Kept
from secateur.ground.errors import SurgeryError, TraceError

from .apply import apply
from .compare import compare
from .planning import make_plan
from .verify import run

__all__ = ["Editable", "editable", "removable"]


@dataclass(frozen=True)
class Editable:
    """Which groups passed a trial, and why the others did not."""

    groups: tuple[str, ...]
    refused: Mapping[str, str]  # group id -> reason


def editable(model: nn.Module, graph: Graph, groups: Iterable[str] | None = None) -> Editable:
    """Try which groups can lose a unit by editing a copy of the model (default: all groups).

    One unit of every group is dropped at once, and the copy exported again and run. Only if the result is not
    what was predicted are the groups tried in halves, down to those that fail alone: their code repeats a size
    that no attribute holds, say.
    """
    chosen = _chosen(graph, groups)
    return _try(model, graph, [g for g in chosen if g.size > 1], _without_one)


def removable(model: nn.Module, graph: Graph, groups: Iterable[str] | None = None) -> Editable:
    """Try which residual branches can be taken out of a copy of the model as a whole (default: all)."""
    chosen = _chosen(graph, groups)
    return _try(model, graph, [g for g in chosen if g.removable], lambda group: ())


def _chosen(graph: Graph, groups: Iterable[str] | None) -> list[Group]:
    return list(graph.groups) if groups is None else [graph.group(id) for id in groups]


def _without_one(group: Group) -> tuple[int, ...]:
    """Return all units but the last that is not the only one of a segment."""
    alone = {unit for s in group.segments if len(s.units) == 1 for unit in s.units}
    free = [unit for unit in range(group.size) if unit not in alone]
    return tuple(unit for unit in range(group.size) if not free or unit != free[-1])


def _try(
    model: nn.Module, graph: Graph, groups: list[Group], keep: Callable[[Group], tuple[int, ...]]
) -> Editable:
    def fails(some: list[Group]) -> str | None:
        return _fails(model, graph, {group.id: keep(group) for group in some}) if some else None

    reason = fails(groups)
    refused = _search(groups, reason, fails)
    good = [group for group in groups if group.id not in refused]
    together = fails(good) if refused else reason
    if together is not None:  # each of them works alone, and nobody knows which do not go together
        refused |= {group.id: together for group in good}
    return Editable(tuple(g.id for g in groups if g.id not in refused), refused)


def _search(
    groups: list[Group], reason: str | None, fails: Callable[[list[Group]], str | None]
) -> dict[str, str]:
    """Return the groups that fail and why, given why all of them together do."""
    if reason is None:
        return {}
    if len(groups) == 1:
        return {groups[0].id: reason}
    half = len(groups) // 2
    left, right = groups[:half], groups[half:]
    refused = _search(left, fails(left), fails)
    # Where the left half is sound the fault is in the right one: no need to ask.
    return refused | _search(right, fails(right) if refused or len(right) == 1 else reason, fails)


def _fails(model: nn.Module, graph: Graph, kept: Kept) -> str | None:
    try:
        plan = make_plan(model, graph, kept)
        smaller = apply(model, plan)
        compare(smaller, graph, kept)
        # Some code takes another way when it is exported.
        run(smaller, *graph.program.example)
    except SurgeryError as error:
        return str(error)
    except TraceError as error:  # the model itself was exported: its code checks a size
        return (
            f"with fewer units {str(error).partition(' Remedy: ')[0]}. Remedy: let the code compare sizes with those "
            "of the layers (self.fc.out_features), which change with them"
        )
    return None

"""Overrides: what the user says about single groups, instead of letting them compete."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn

from secateur.graph import Graph, Group
from secateur.ground.errors import BudgetError
from secateur.ground.patterns import check_patterns, matches
from secateur.surgery.candidates import Candidates

from .limits import check_width

__all__ = ["check_fixed", "fixed_units"]


def fixed_units(
    model: nn.Module, graph: Graph, chosen: Candidates, keep: Mapping[str, float]
) -> dict[str, int]:
    """Return how many units each group keeps whose producers a glob in `keep` names: group id -> units.

    Globs match module paths as in `exclude`. A value of at most 1 is the share of the group's units (rounded up),
    a larger one their number. A glob may name layers that cannot be pruned beside some that can.

    Raises:
        UnknownNameError: a glob matches no module.
        BudgetError: a value is out of range, two globs disagree about a group, or a glob names none that may be
            pruned.
    """
    check_patterns(model, keep, "keep")
    modules = {layer.node: layer.module for layer in graph.layers}
    found: dict[str, tuple[str, int]] = {}
    for glob, value in keep.items():
        named = [
            group
            for group in graph.groups
            if any(matches(model, modules.get(site.node, ""), glob) for site in group.producers)
        ]
        wanted = [group for group in chosen.groups if group.id in {g.id for g in named}]
        if not wanted:
            reasons = "; ".join(f"{g.id}: {chosen.refused[g.id]}" for g in named[:3])
            raise BudgetError(
                f"keep: {glob!r} names no layer that may be pruned ({reasons or 'its outputs are frozen'}). "
                "secateur.trace(model, x) shows the groups; name a producer of one."
            )
        for group in wanted:
            units = _units(glob, value, group)
            other, before = found.setdefault(group.id, (glob, units))
            if before != units:
                raise BudgetError(
                    f"keep: {other!r} and {glob!r} both name group {group.id}, but ask for {before} and {units} "
                    f"of its {group.size} units. Write globs that do not overlap."
                )
    return {id: units for id, (_, units) in found.items()}


def check_fixed(fixed: Mapping[str, int], chosen: Candidates) -> None:
    """Check that no group of fixed width had to be left whole because the model's code resists.

    Raises:
        BudgetError: one was; the message says why.
    """
    for id in fixed:
        if id in chosen.refused:
            raise BudgetError(
                f"keep: group {id} cannot lose units: {chosen.refused[id]}. Take it out of keep."
            )


def _units(glob: str, value: float, group: Group) -> int:
    check_width(glob, value)
    if value > group.size:
        raise BudgetError(
            f"keep: {glob!r} asks for {value:g} units, but group {group.id} has only {group.size}."
        )
    # A share such as 0.55 of 100 is a hair above 55 in binary.
    return math.ceil(value * group.size - 1e-9) if value <= 1 else int(value)

"""Prediction: the shape of every value, and the multiply-accumulates, after a selection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from secateur.ground.errors import SurgeryError

from .analysis import Analysis
from .grouping import Units
from .labels import Labels, Value, varying
from .macs import Product, products
from .program import Program, Shape

__all__ = ["Alive", "CostModel", "Term", "alive_units", "predict_shape"]

Alive = NDArray[np.bool_]
"""For each unit of all groups whether it stays, and True at the end for what belongs to no unit."""


def predict_shape(name: str, value: Value, units: Units, alive: Alive) -> Shape:
    """Return the shape that a value has when only some units are left.

    Raises:
        SurgeryError: the survivors do not form a full grid.
    """
    shape = list(value.shape)
    for labels in value.fields:
        stays = alive[units.of(labels)]
        dims = varying(labels)
        for d in dims:
            shape[d] = int(_along(stays, d).sum())
        if int(stays.sum()) != prod(shape[d] for d in dims):
            raise SurgeryError(
                f"the units kept of value {name} of shape {value.shape} do not form a full grid; "
                "keep the same number in each of its parts"
            )
    return tuple(shape)


def _along(stays: Alive, dim: int) -> Alive:
    rows = np.moveaxis(stays, dim, 0).reshape(stays.shape[dim], -1)
    return np.asarray(rows.any(axis=1))


@dataclass(frozen=True)
class Term:
    """A product of surviving lengths of some dimensions with a constant, and what it is divided by."""

    factor: int
    counters: tuple[int, ...]
    over: int = 1


class CostModel:
    """Multiply-accumulates and output size of each call for any selection; made once, then quick to ask.

    A dimension's length after a selection is what never goes plus the number of indices whose unit stays.
    """

    def __init__(self, program: Program, analysis: Analysis, units: Units) -> None:
        self._analysis = analysis
        self._units = units
        self._fixed: list[int] = []
        self._units_of: list[Labels] = []
        self._weights: list[NDArray[np.int64]] = []
        self._known: dict[bytes, int] = {}
        self._terms: dict[str, tuple[Term, ...]] = {}
        self._sizes: dict[str, Term] = {}
        for node in program.nodes:
            terms = tuple(self._term(program, product) for product in products(program, node))
            if terms:
                self._terms[node.name] = terms
            value = analysis.values.get(node.name)
            if value is not None:
                self._sizes[node.name] = self._product(value)

    def macs(self, alive: Alive) -> dict[str, int]:
        """Return the multiply-accumulates of each call that has any, for one sample."""
        lengths = self._lengths(alive)
        return {name: sum(_amount(t, lengths) for t in terms) for name, terms in self._terms.items()}

    def elements(self, alive: Alive) -> dict[str, int]:
        """Return the number of elements of each output that is one tensor, for the batch of the example."""
        lengths = self._lengths(alive)
        return {name: _amount(term, lengths) for name, term in self._sizes.items()}

    def _lengths(self, alive: Alive) -> list[int]:
        return [
            fixed + int(weights @ alive[units])
            for fixed, units, weights in zip(self._fixed, self._units_of, self._weights, strict=True)
        ]

    def _term(self, program: Program, product: Product) -> Term:
        """Return a product for one sample: a dimension that grows with the batch has its share of what survives."""
        factor, over, counters = 1, program.held, []
        for length in product:
            if isinstance(length, int):
                factor *= length
                continue
            shape, alone = (s[length.dim] for s in program.node(length.node).sizes())
            value = self._analysis.values.get(length.node)
            counter = None if value is None else self._counter(value, length.dim)
            factor *= alone
            if counter is not None:
                over *= shape
                counters.append(counter)
        return Term(factor, tuple(counters), over)

    def _product(self, value: Value) -> Term:
        counters = [self._counter(value, d) for d in range(value.ndim)]
        fixed = prod(n for n, counter in zip(value.shape, counters, strict=True) if counter is None)
        return Term(fixed, tuple(c for c in counters if c is not None))

    def _counter(self, value: Value, dim: int) -> int | None:
        for labels in value.fields:
            if labels.shape[dim] > 1:
                units = self._units.of(labels)
                rows = np.moveaxis(units, dim, 0).reshape(units.shape[dim], -1)
                # Settled fields vary over one dimension only, so one column tells all.
                if (rows == rows[:1]).all():
                    return None
                return self._register(rows[:, 0])
        return None

    def _register(self, units: Labels) -> int:
        key = units.tobytes()
        if key not in self._known:
            self._known[key] = len(self._fixed)
            distinct, weights = np.unique(units, return_counts=True)
            free = distinct < self._units.count
            self._fixed.append(int(weights[~free].sum()))
            self._units_of.append(distinct[free])
            self._weights.append(weights[free])
        return self._known[key]


def _amount(term: Term, lengths: list[int]) -> int:
    return term.factor * prod(lengths[c] for c in term.counters) // term.over


def alive_units(units: Units, sizes: Mapping[str, int], kept: Mapping[str, tuple[int, ...]]) -> Alive:
    """Return which units stay; groups that are not named keep all."""
    alive = np.ones(units.count + 1, dtype=bool)
    for group, chosen in kept.items():
        start = units.start[group]
        alive[start : start + sizes[group]] = False
        alive[[start + u for u in chosen]] = True
    return alive

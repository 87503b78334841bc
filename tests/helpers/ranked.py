"""Models of the table ranked by each method, traced and calibrated once."""

from __future__ import annotations

from functools import cache

from models import SMALL
from stopwatches import Analytic
from torch import nn

from secateur.graph import Graph, trace
from secateur.measure import latency_model
from secateur.methods import SNP, BatchNormScale, Magnitude, Method, Random, Taylor
from secateur.selection import CostModel, Ranked
from secateur.selection.cost import COUNTS
from secateur.statistics import Statistics, collect, random_projection
from secateur.surgery.candidates import candidates

__all__ = ["CASES", "METHODS", "UNITS", "calibrated", "cost_of", "rank"]

METHODS: dict[str, Method] = {
    "snp": SNP(),
    "paper": SNP.paper(),
    "magnitude": Magnitude(),
    "random": Random(seed=3),
    "batch-norm": BatchNormScale(),
    "taylor": Taylor(),
}
CASES = [case.name for case in SMALL if case.name != "shared"]  # of which no group may be pruned

UNITS = [*COUNTS, "latency"]  # of budgets that a cost model answers for


@cache
def calibrated(name: str) -> tuple[nn.Module, Graph, Statistics]:
    """Return a model, its graph and the statistics of its candidates."""
    case = next(case for case in SMALL if case.name == name)
    model, x = case.model(), case.inputs(24, seed=3)
    graph = trace(model, x[:2])
    chosen = candidates(model, graph).groups
    found = collect(graph, chosen, x.split(8), patches=True, loss=random_projection, positions=16)
    return model, graph, found


@cache
def rank(name: str, method: str) -> tuple[Ranked, ...]:
    """Return the candidates of a model as a method ranks them."""
    model, graph, statistics = calibrated(name)
    groups = candidates(model, graph).groups
    return tuple(METHODS[method].rank(graph, group, statistics) for group in groups)


@cache
def cost_of(name: str, unit: str) -> CostModel:
    """Return the cost model of a budget's unit; for latency, a table that no clock made."""
    if unit != "latency":
        return COUNTS[unit]
    model, graph, _ = calibrated(name)
    case = next(case for case in SMALL if case.name == name)
    groups = candidates(model, graph).groups
    return latency_model(model, graph, groups, (case.inputs(1),), Analytic(start=0.0, stretch=0.5))

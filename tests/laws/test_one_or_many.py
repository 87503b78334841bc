"""Law 8: from the same weights and the same data, many processes end with what one ends with.

Counts and selections are the same; sums, and the weights that follow from them, are so within float tolerance.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from models import SMALL
from stopwatches import Analytic
from torch import Tensor

import secateur as sc
from secateur.graph import Graph, trace
from secateur.ground.errors import CalibrationError
from secateur.methods import OutputError
from secateur.recovery import Distill, Joint
from secateur.recovery.batch_norm import re_estimated
from secateur.recovery.jobs import jobs, masked
from secateur.selection import Constraints, select
from secateur.statistics import Calibration, Norm, Statistics, collect, state_tensors
from secateur.statistics.activity import activity
from secateur.statistics.gradients import random_projection

TIMEOUT = datetime.timedelta(seconds=60)  # of a collective: a process that waits in vain fails the test
NAMES = ("residual", "mixer")
SHARES = {
    "dealt out": ([0, 2, 4], [1, 3, 5]),
    "uneven": ([5, 1, 3, 0, 4], [2]),
    "one without data": ([0, 1, 2, 3, 4, 5], []),
}

DAMAGE = {
    "data": (r"Process 1 of 2 gave up", r"shape \(8, 2, 8, 8\)"),
    "weights": (r"not have the same weights",) * 2,
    "options": (r"not have the same selection",) * 2,
    "no data": (r"empty in every process",) * 2,
}


def _process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=TIMEOUT
    )
    results: dict[str, Any] = {}
    for case, (work, arguments) in _cases().items():
        try:
            results[case] = work(*arguments)
        except Exception as error:
            results[case] = f"{type(error).__name__}: {error}"
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Return what each of two processes makes of every case: they start once, which is what takes time."""
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(_process, (folder,), nprocs=2)
    found = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
    return {case: [results[case] for results in found] for case in _cases()}


def batches(name: str) -> list[Tensor]:
    case = next(case for case in SMALL if case.name == name)
    return list(case.inputs(48, seed=3).split(8))


def summary(graph: Graph, statistics: Statistics) -> dict[str, Any]:
    """Return statistics as plain data."""
    sites = {
        f"{node}/{field}": getattr(site, field)
        for node, site in statistics.sites.items()
        for field in ("fit", "held", "gram", "mean", "patches")
        if getattr(site, field) is not None
    }
    sites |= dict(statistics.gradients)
    return {"samples": statistics.samples, "sites": sites, "power": dict(statistics.power)}


def line(name: str, chosen: Sequence[int]) -> dict[str, Any]:
    """Go down the whole line on some of the batches."""
    case = next(case for case in SMALL if case.name == name)
    data = [batches(name)[i] for i in chosen]
    graph = trace(case.model(), case.inputs(2))
    groups = [g for g in graph.groups if g.consumers and len(g.producers) == 1]
    method = sc.SNP(recovery=sc.Sequential(positions=5, oversampling=1))
    statistics = collect(graph, groups, data, patches=True, positions=7, loss=random_projection)
    ranked = [method.rank(graph, group, statistics) for group in groups]
    kept = select(graph, ranked, sc.Budget(params=0.7), method.allocation, Constraints())
    assert method.recovery is not None
    recovered = method.recovery(graph, kept, statistics, data)
    before = masked(graph, statistics.tensors, kept)
    broken = {n: t + 1 if "running" in n else t for n, t in statistics.tensors.items()}
    return {
        **summary(graph, statistics),
        "order": {r.group.id: r.order for r in ranked},
        "kept": kept,
        "recovered": recovered,
        "masked": before,
        "distilled": Distill(steps=10, lr=2e-3, batch=8)(graph, kept, before, data),
        "joint": Joint(2, 16)(
            graph, kept, before, Calibration(data, graph.program), jobs(graph, kept, True, True)
        ),
        "re-estimated": re_estimated(graph, broken, Calibration(data, graph.program)),
    }


def lines(name: str, shares: Sequence[Sequence[int]]) -> dict[str, Any]:
    return line(name, shares[dist.get_rank()])


def _cases() -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Return all that is done in the two processes."""
    cases: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        f"{name}, {share}": (lines, (name, parts)) for name in NAMES for share, parts in SHARES.items()
    }
    cases["timed"] = (timed, ())
    cases["structured"] = (structured, (slice(None),))
    cases |= {f"NN-relief, {norm}": (relieved_in_two, (norm,)) for norm in Norm}
    return cases | {damage: (pruned, (damage,)) for damage in ("none", *DAMAGE)}


@cache
def alone(name: str) -> dict[str, Any]:
    return line(name, range(6))


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_make_what_one_makes(name: str, share: str, together: dict[str, list[Any]]) -> None:
    expected = alone(name)
    first, second = together[f"{name}, {share}"]
    for found in (first, second):
        assert isinstance(found, dict), found
        for field in ("samples", "order", "kept"):
            assert found[field] == expected[field]
        assert found["power"] == pytest.approx(expected["power"], rel=1e-6)
        for field in ("sites", "recovered", "re-estimated"):
            assert found[field].keys() == expected[field].keys()
            for key, value in expected[field].items():
                torch.testing.assert_close(found[field][key], value, atol=1e-4, rtol=1e-4)
    if share == "one without data":  # minibatches differ where both have data
        for field in ("distilled", "joint"):
            for key, value in expected[field].items():
                torch.testing.assert_close(first[field][key], value, atol=1e-5, rtol=1e-5)
    for field in (
        "sites",
        "recovered",
        "re-estimated",
        "distilled",
        "joint",
    ):  # and on every process the same bits
        assert all(torch.equal(first[field][key], second[field][key]) for key in first[field])
    assert any(not torch.equal(first["recovered"][key], value) for key, value in _dense(name).items())
    for field in ("distilled", "joint"):
        assert any(not torch.equal(first[field][key], value) for key, value in first["masked"].items())


def _dense(name: str) -> dict[str, Tensor]:
    return dict(next(case for case in SMALL if case.name == name).model().state_dict())


def relieved(norm: Norm, chosen: Sequence[int]) -> dict[str, Any]:
    """Return the scores and masks of NN-relief on some of the batches."""
    case = next(case for case in SMALL if case.name == "residual")
    model, data = case.model(), [batches("residual")[i] for i in chosen]
    graph = trace(model, data[0])
    found = activity(graph, graph.layers, state_tensors(graph.program), data, norm)
    scores = {node: value.inputs for node, value in found.contributions.items()}
    masks = {}
    for form, method in {"network": sc.NNRelief(0.8, 0.8), "paper": sc.NNRelief.paper(0.8, 0.8)}.items():
        told = replace(method, norm=norm, samples=48, empty_layers=True)
        for name, mask in told.prune(model, sc.Masks.full(model), None, data).items():
            masks[f"{form} {name}"] = mask
    return {"samples": found.samples, "scores": scores | dict(found.shares), "masks": masks}


def relieved_in_two(norm: Norm) -> dict[str, Any]:
    return relieved(norm, range(dist.get_rank(), 6, 2))


@pytest.mark.parametrize("norm", list(Norm))
def test_nn_relief_scores_and_cuts_as_one_process_does(norm: Norm, together: dict[str, list[Any]]) -> None:
    expected = relieved(norm, range(6))
    for found in together[f"NN-relief, {norm}"]:
        assert isinstance(found, dict), found
        assert found["samples"] == expected["samples"] == 48
        for node, scores in expected["scores"].items():
            torch.testing.assert_close(found["scores"][node], scores)
        assert all(torch.equal(mask, found["masks"][name]) for name, mask in expected["masks"].items())
    assert (
        0
        < sum(int(m.sum()) for m in expected["masks"].values())
        < sum(m.numel() for m in expected["masks"].values())
    )


def pruned(damage: str) -> dict[str, Any]:
    """Prune a small network in each process, something amiss in the second."""
    case = next(case for case in SMALL if case.name == "residual")
    second = dist.get_rank() == 1
    model = case.model(seed=int(second and damage == "weights"))
    data: Any = batches("residual")[dist.get_rank() :: 2]
    budget = sc.Budget(params=0.8)
    if second and damage == "data":
        data[-1] = data[-1][:, :2]
    if second and damage == "options":
        budget = sc.Budget(params=0.6)
    if damage == "no data":
        data = []
    result = sc.prune(model, case.inputs(2), method=sc.SNP(), budget=budget, calibration=data, progress=False)
    return dict(result.model.state_dict())


def test_pruning_gives_both_processes_the_same_model(together: dict[str, list[Any]]) -> None:
    first, second = together["none"]
    assert isinstance(first, dict), first
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    case = next(case for case in SMALL if case.name == "residual")
    data = batches("residual")
    whole = sc.prune(
        case.model(), case.inputs(2), method=sc.SNP(), budget=sc.Budget(params=0.8), calibration=data
    )
    for key, value in whole.model.state_dict().items():
        torch.testing.assert_close(first[key], value, atol=1e-4, rtol=1e-4)


def timed() -> dict[str, Any]:
    """Meet a latency budget on two processors of which one is slower."""
    case = next(case for case in SMALL if case.name == "residual")
    model, x, timer = case.model(), case.inputs(2), Analytic((10.0, 40.0)[dist.get_rank()])
    result = sc.prune(
        model,
        x,
        method=sc.Magnitude(),
        budget=sc.Budget(latency=0.8),
        timer=timer,
        progress=False,
        calibration=batches("residual")[dist.get_rank() :: 2],
    )
    return {"state": dict(result.model.state_dict()), "ms": list(timer.models([model, result.model], (x,)))}


def test_a_latency_budget_is_met_in_the_mean_over_processes(together: dict[str, list[Any]]) -> None:
    first, second = together["timed"]
    assert isinstance(first, dict), first
    assert first["state"].keys() == second["state"].keys()
    assert all(torch.equal(value, second["state"][key]) for key, value in first["state"].items())
    dense, smaller = (a + b for a, b in zip(first["ms"], second["ms"], strict=True))
    assert first["ms"] != second["ms"]
    assert 0.7 <= smaller / dense <= 0.8


def structured(batches_of: slice) -> dict[str, Any]:
    """Make blocks zero and unified, each process on its share of the batches."""
    case = next(case for case in SMALL if case.name == "residual")
    data = batches("residual")[batches_of]
    if dist.is_initialized():
        data = data[dist.get_rank() :: 2]
    result = sc.prune(
        case.model(),
        case.inputs(2),
        method=sc.MicroStructured(sc.Block(2, 1), zero=0.5, unify=0.25, criterion=OutputError()),
        calibration=data,
        progress=False,
    )
    states = {f"states of {name}": pattern.states for name, pattern in result.plan.patterns.items()}
    return dict(result.model.state_dict()) | states


def test_blocks_are_the_same_on_both_processes(together: dict[str, list[Any]]) -> None:
    first, second = together["structured"]
    assert isinstance(first, dict), first
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    for key, value in structured(slice(None)).items():
        torch.testing.assert_close(first[key], value, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_goes_wrong_in_one_process_is_an_error_in_both(
    damage: str, together: dict[str, list[Any]]
) -> None:
    for found, message in zip(together[damage], DAMAGE[damage], strict=True):
        assert re.search(rf"^{CalibrationError.__name__}: .*{message}", str(found))

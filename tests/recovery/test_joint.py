"""All layers together: products against explicit Jacobians, never worse on held-out samples, nothing else touched."""

from typing import Any

import pytest
import torch
from models import SMALL, random_selection
from torch import Tensor

import secateur as sc
from secateur.graph import Graph, Kept, trace
from secateur.recovery.distance import held_out_distances
from secateur.recovery.jobs import jobs, masked
from secateur.recovery.joint import Joint, _Problem
from secateur.recovery.shrunk import Shrunk
from secateur.statistics import Calibration, Forward, state_tensors

NAMES = ["perceptron", "residual", "depthwise", "dense", "grouped", "flattened", "mixer"]


def pruned(name: str, samples: int = 64) -> tuple[Graph, Kept, dict[str, Tensor], Calibration]:
    case = next(case for case in SMALL if case.name == name)
    model, x = case.model(), case.inputs(samples, seed=3)
    graph = trace(model, x[:2])
    kept = random_selection(graph, 0.3, 0)
    batches = Calibration(x.split(16), graph.program)
    return graph, kept, masked(graph, state_tensors(graph.program), kept), batches


def problem(name: str, samples: int = 8) -> _Problem:
    graph, kept, tensors, batches = pruned(name)
    touched = jobs(graph, kept, producers=True, residual=True)
    example: Any = graph.program.exported.example_inputs[0]
    shrunk = Shrunk(graph, kept, tensors, list(example))
    assert shrunk.is_small
    return _Problem(Joint(samples=samples), graph, shrunk, tensors, touched, batches, 0)


def distance(graph: Graph, tensors: dict[str, Tensor], batches: Calibration) -> float:
    dense, other = (Forward(graph.program, t) for t in (state_tensors(graph.program), tensors))
    return held_out_distances(dense, [other], batches)[0]


@pytest.mark.parametrize("name", NAMES)
def test_outputs_of_held_out_samples_come_closer(name: str) -> None:
    graph, kept, before, batches = pruned(name)
    touched = jobs(graph, kept, producers=True, residual=True)
    after = Joint(4, 48)(graph, kept, before, batches, touched)
    assert distance(graph, after, batches) < 0.9 * distance(graph, before, batches)
    again = masked(graph, after, kept)
    assert all(torch.equal(value, again[key]) for key, value in after.items())  # what is gone stays gone
    own = {n for job in touched for n in (job.layer.weight, job.layer.bias)}
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert {n for n in changed if n not in own} <= {n for n in changed if n.endswith("bias")}  # BatchNorms'


@pytest.mark.parametrize("name", ["perceptron", "residual", "depthwise", "grouped"])
def test_products_are_those_of_the_jacobian(name: str) -> None:
    found = problem(name, 2)
    torch.manual_seed(0)
    zero = tuple(torch.zeros(found._width(layer)) for layer in found._layers)
    direction = tuple(0.01 * torch.randn(z.shape) for z in zero)
    product = found._product(direction)
    (_,) = found._chunks
    jacobians = torch.func.jacrev(lambda changes: found._residuals(changes, 0))(zero)
    image = [
        sum(torch.tensordot(j, d, d.ndim) for j, d in zip(row, direction, strict=True)) for row in jacobians
    ]
    expected = [
        sum(torch.tensordot(v, js[k], v.ndim) for v, js in zip(image, jacobians, strict=True))
        for k in range(len(zero))
    ]
    for a, b in zip(product, expected, strict=True):
        assert isinstance(b, Tensor)
        assert float((a - b).norm()) < 0.03 * float(b.norm())  # a unit that reads zeros may bend just there


@pytest.mark.parametrize("name", NAMES)
def test_the_preconditioner_is_positive_and_symmetric(name: str) -> None:
    found = problem(name, 32)
    zero = tuple(torch.zeros(found._width(layer)) for layer in found._layers)
    precondition = found._preconditioner(zero)
    torch.manual_seed(0)
    a, b = (tuple(torch.randn(z.shape) for z in zero) for _ in range(2))
    for x, y, px, py in zip(a, b, precondition(a), precondition(b), strict=True):
        assert (x * px).sum() > 0
        scale = float((x * px).sum() + (y * py).sum())
        assert float((x * py).sum()) == pytest.approx(float((y * px).sum()), abs=1e-3 * scale)


def test_it_is_a_part_of_front_to_back() -> None:
    case = next(case for case in SMALL if case.name == "residual")
    model, x = case.model(), case.inputs(64, seed=3)
    errors = []
    for recovery in (sc.Sequential(), sc.Sequential(joint=Joint())):
        result = sc.prune(
            model,
            x[:2],
            method=sc.SNP(recovery=recovery),
            budget=sc.Budget(macs=0.5),
            calibration=x.split(16),
            progress=False,
        )
        with torch.no_grad():
            errors.append(float(((result.model(x) - model(x)) ** 2).mean()))
    assert errors[1] < errors[0]


@pytest.mark.parametrize("options", [{"iterations": 0}, {"samples": 0}])
def test_numbers_that_are_none_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Joint(**options)  # type: ignore[arg-type]


def test_without_samples_that_fit_nothing_changes() -> None:
    graph, kept, before, batches = pruned("perceptron")
    held = [flat[0][held] for flat, held in batches.held_out()]
    touched = jobs(graph, kept, producers=True, residual=True)
    only = Calibration([x for x in held if len(x)], graph.program)
    after = Joint(2, 8)(graph, kept, before, only, touched)
    assert all(torch.equal(value, before[key]) for key, value in after.items())

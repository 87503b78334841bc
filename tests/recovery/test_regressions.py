"""Regressions that share what they read, and networks that leave out what nothing watches."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from secateur.graph import trace
from secateur.recovery.forecast import forecast
from secateur.recovery.jobs import Job, jobs, masked
from secateur.recovery.regressions import WIDE, OutputRegression, Sampling, regressions
from secateur.recovery.sweeps import sweep
from secateur.statistics import Calibration, Forward, state_tensors
from secateur.statistics.forward import Paused, Watch

SAMPLING = Sampling(samples=64, positions=10_000, oversampling=1)


class Gated(nn.Module):
    """Two layers read the same; their product is read by a third."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 10)
        self.gate, self.up = nn.Linear(10, 12, bias=False), nn.Linear(10, 12, bias=False)
        self.down = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        return self.down(torch.sigmoid(self.gate(x)) * self.up(x))


def test_layers_that_read_alike_are_solved_as_each_alone() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 6)
    graph = trace(Gated().eval(), x[:2])
    first = next(g for g in graph.groups if g.size == 10)
    kept = {first.id: (0, 2, 3, 6, 9)}
    dense = state_tensors(graph.program)
    current = masked(graph, dense, kept)
    work = jobs(graph, kept, producers=False, residual=True)
    assert [job.layer.module for job in work] == ["gate", "up"]

    def solved(some: list[list[Job]]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        networks = Forward(graph.program, dense), Forward(graph.program, current)
        for part in some:
            each = regressions(graph, part, dense, SAMPLING, 1 << 29, True, True)
            assert len(each) == 1
            sweep(networks, each, Calibration([x], graph.program), 0, "")
            found |= each[0].solve(current, (1e-4, 1e-2))
        return found

    together, apart = solved([work]), solved([[job] for job in work])
    assert together.keys() == apart.keys() == {"gate.weight", "up.weight"}
    for name, value in together.items():
        torch.testing.assert_close(value, apart[name], atol=1e-6, rtol=1e-5)
        assert not torch.equal(value, current[name])


def test_layers_that_read_something_else_have_their_own_regression() -> None:
    graph = trace(Gated().eval(), torch.randn(2, 6))
    kept = {g.id: tuple(range(0, g.size, 2)) for g in graph.groups}
    work = jobs(graph, kept, producers=True, residual=True)
    found = regressions(graph, work, state_tensors(graph.program), SAMPLING, 1 << 29, True, True)
    assert len(work) == 4
    assert len(found) == 3
    assert all(isinstance(r, OutputRegression) for r in found)


def test_what_is_left_out_is_watched_and_not_run() -> None:
    torch.manual_seed(0)
    model, x = Gated().eval(), torch.randn(3, 6)
    graph = trace(model, x[:2])
    nodes = {layer.module: layer.node for layer in graph.layers}
    seen: dict[str, list[tuple[Any, Any]]] = {}

    def watching(name: str) -> Watch:
        return lambda args, result: seen.setdefault(name, []).append((args, result))

    forward = Forward(graph.program, state_tensors(graph.program))
    reads = {nodes[name]: watching(f"{name} reads") for name in ("gate", "up", "down")}
    makes = {nodes[name]: watching(f"{name} makes") for name in ("gate", "up", "down")}
    forward.advance(Paused([x]), reads, makes, nodes["down"], {nodes["gate"]})
    [(read, none)] = seen["gate reads"]
    with torch.no_grad():
        torch.testing.assert_close(read[0], torch.tanh(model.first(x)))
        [(_, up)] = seen["up makes"]
        torch.testing.assert_close(up, model.up(torch.tanh(model.first(x))))
    assert none is None
    assert seen["gate makes"] == [((), None)] == seen["down makes"]


def test_rows_grow_with_the_unknowns_up_to_a_bound() -> None:
    sampling = Sampling(samples=100, positions=8, oversampling=40)
    assert [sampling.wanted(d) for d in (1, 20, 1000)] == [8, 8, 400]
    assert sampling.wanted(WIDE) == sampling.wanted(10 * WIDE)


def test_the_forecast_counts_what_it_says() -> None:
    x = torch.randn(2, 6)
    graph = trace(Gated().eval(), x)
    kept = {g.id: tuple(range(0, g.size, 2)) for g in graph.groups if g.size == 12}
    work = jobs(graph, kept, producers=False, residual=True)
    [job] = work
    d, m, n = 6, 4, 64
    expected = forecast(graph, work, SAMPLING, ridges=3)
    networks = 2 * n * (6 * 10 + 2 * 10 * 12 + 12 * 4)
    assert job.width == d
    assert math.isclose(expected.macs, networks + n * d * (d / 2 + m) + 6 * (d**3 / 6 + 2 * d * d * m))
    assert expected.memory == 8 * (7 * d * d + 5 * d * m)
    assert forecast(graph, [], SAMPLING, 3).macs == 0


class Branch(nn.Module):
    """A branch beside a shortcut, which can go as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(x)
        return x + self.down(torch.relu(self.up(x)))


def test_a_layer_that_lost_all_inputs_keeps_a_constant() -> None:
    torch.manual_seed(0)
    model, x = Branch().eval(), torch.randn(64, 6)
    graph = trace(model, x[:2])
    [group] = [g for g in graph.groups if g.size == 8]
    dense = state_tensors(graph.program)
    current = masked(graph, dense, {group.id: ()})
    work = jobs(graph, {group.id: ()}, producers=False, residual=True)
    found = regressions(graph, work, dense, SAMPLING, 1 << 29, True, True)
    networks = Forward(graph.program, dense), Forward(graph.program, current)
    sweep(networks, found, Calibration([x], graph.program), 0, "")
    bias = found[0].solve(current, (1e-9,))["down.bias"]
    with torch.no_grad():
        expected = model.down(torch.relu(model.up(torch.tanh(x)))).mean(0)
    torch.testing.assert_close(bias, expected, atol=1e-4, rtol=1e-4)

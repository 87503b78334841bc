"""Gradients at gates, against each sample's own derivative in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models import SMALL
from torch import Tensor, nn
from torch.func import functional_call

from secateur.graph import Graph, Group, trace
from secateur.ground.errors import CalibrationError
from secateur.statistics import collect, random_projection
from secateur.statistics.gradients import Loss, gate_gradients

CASES = {case.name: case for case in SMALL}
QUICK = [n for n in CASES if n not in ("lenet300", "lenet5", "resnet20", "vgg16_bn")]


def squares(outputs: Tensor, labels: Any) -> Tensor:
    return (outputs**2).flatten(1).sum(1).mean()


def by_hand(model: nn.Module, group: Group, x: Tensor, loss: Loss, labels: Tensor | None = None) -> Tensor:
    """Return the mean squared derivative by a factor on the weights with which every consumer reads a unit."""
    state = dict(model.state_dict(keep_vars=True))
    total = torch.zeros(group.size, dtype=torch.float64)
    for i in range(len(x)):
        gate = torch.ones(group.size + 1, dtype=torch.float64, requires_grad=True)
        scaled: dict[str, Tensor] = {}
        for name, dim in {(site.parameter, site.dim) for site in group.consumers}:
            shape = [1] * state[name].ndim
            shape[dim] = -1
            scaled[name] = state[name] * gate[torch.tensor(group.owner(name, dim))].view(shape)
        outputs = functional_call(model, scaled, (x[i : i + 1],))
        value = loss(outputs, None if labels is None else labels[i : i + 1])
        total += torch.autograd.grad(value, gate)[0][:-1].detach() ** 2
    return total / len(x)


def traced(model: nn.Module, x: Tensor) -> Graph:
    return trace(model, x[:2])


@pytest.mark.parametrize("name", QUICK)
def test_every_group_has_the_gradients_of_its_samples(name: str) -> None:
    case = CASES[name]
    model, x = case.model().double(), case.inputs(5).double()
    graph = traced(model, x)
    groups = [g for g in graph.groups if g.consumers]
    found = gate_gradients(graph, groups, x.split(3), squares)
    assert groups
    for group in groups:
        torch.testing.assert_close(found[group.id], by_hand(model, group, x, squares), rtol=1e-6, atol=1e-12)
    assert max(float(scores.max()) for scores in found.values()) > 0


def test_torchs_attention_lays_samples_inside_of_positions() -> None:
    """Its last layer reads (T * N, C), time by time: each sample has its own gate nevertheless."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.out = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.attention(x, x, x, need_weights=False)[0])

    torch.manual_seed(0)
    model, x = Attention().double().eval(), torch.randn(6, 4, 8, dtype=torch.float64)
    graph = traced(model, x)
    groups = [g for g in graph.groups if g.consumers]
    found = gate_gradients(graph, groups, x.split(3), squares)
    for group in groups:
        torch.testing.assert_close(found[group.id], by_hand(model, group, x, squares), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("sizes", [[6], [4, 2], [1, 5], [2, 2, 2]])
def test_batches_of_any_size_give_the_same_sums(sizes: list[int]) -> None:
    case = CASES["residual"]
    model, x = case.model().double(), case.inputs(6).double()
    labels = torch.arange(6) % 4
    graph = traced(model, x)
    batches = list(zip(x.split(sizes), labels.split(sizes), strict=True))
    found = gate_gradients(graph, graph.groups, batches, F.cross_entropy)
    group = graph.group("a1")
    expected = by_hand(model, group, x, F.cross_entropy, labels)
    torch.testing.assert_close(found["a1"], expected, rtol=1e-6, atol=1e-12)


def test_a_mapping_is_handed_over_whole() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.b(torch.relu(self.a(x)))}

    torch.manual_seed(0)
    model, x, labels = Named().eval(), torch.randn(6, 3), torch.tensor([0, 1, 1, 0, 1, 0])
    seen: list[set[str]] = []

    def loss(outputs: Any, batch: Any) -> Tensor:
        seen.append(set(batch))
        return F.cross_entropy(outputs["logits"], batch["labels"])

    graph = trace(model, x=x[:2])
    found = gate_gradients(graph, graph.groups, [{"x": x, "labels": labels}], loss)
    assert seen == [{"x", "labels"}]
    assert float(found["a"].sum()) > 0


def test_a_fixed_batch_size_cuts_inputs_and_labels_alike() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x))).reshape(3, 2)

    torch.manual_seed(0)
    model, x, labels = Fixed().eval(), torch.randn(9, 4), torch.arange(9)
    graph = trace(model, x[:3])
    assert not graph.program.dynamic
    seen: list[list[int]] = []

    def loss(outputs: Any, given: Any) -> Tensor:
        seen.append(given.tolist())
        return squares(outputs, given)

    gate_gradients(graph, graph.groups, [(x, labels)], loss)
    assert seen == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_the_default_estimates_how_far_all_outputs_move() -> None:
    """The mean over many samples of (v^T J)^2 is the squared norm of the Jacobian, which is the same for all here."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Identity(), nn.Linear(4, 50, bias=False)).eval()
    x = torch.ones(1, 3).expand(400, 3).contiguous()
    graph = trace(model, x[:2])
    found = gate_gradients(graph, graph.groups, [x], random_projection)["0"]
    with torch.no_grad():
        jacobian = model[2].weight * model[0](x[:1])
    torch.testing.assert_close(found, (jacobian.double() ** 2).sum(0), rtol=0.25, atol=0)


def test_statistics_carry_them_only_where_a_loss_is_given() -> None:
    case = CASES["perceptron"]
    model, x = case.model(), case.inputs(8)
    graph = traced(model, x)
    assert collect(graph, graph.groups, [x]).gradients == {}
    found = collect(graph, graph.groups, [x], loss=random_projection).gradients
    assert set(found) == {g.id for g in graph.groups}
    assert all(scores.dtype == torch.float64 for scores in found.values())


def test_neither_model_nor_generator_is_touched() -> None:
    case = CASES["residual"]
    model, x = case.model(), case.inputs(8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = traced(model, x)
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    gate_gradients(graph, graph.groups, [x], random_projection)
    assert torch.equal(torch.rand(2), expected)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def no_labels(outputs: Any, labels: Any) -> Tensor:
    return F.cross_entropy(outputs, labels)


def infinite(outputs: Any, labels: Any) -> Tensor:
    return squares(outputs, labels) * float("inf")


@pytest.mark.parametrize(
    ("loss", "message"), [(no_labels, "labels"), (infinite, "not finite"), (lambda y, _: y, "one number")]
)
def test_losses_that_cannot_be_used(loss: Callable[[Any, Any], Tensor], message: str) -> None:
    case = CASES["perceptron"]
    model, x = case.model(), case.inputs(8)
    graph = traced(model, x)
    with pytest.raises(CalibrationError, match=message):
        gate_gradients(graph, graph.groups, [x], loss)

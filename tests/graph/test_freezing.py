"""Law 6: what is not understood freezes, with the place and the reason, and never raises."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from secateur.graph import Frozen, Graph, trace
from secateur.graph.labels import Value
from secateur.graph.rules import RULES


class Middle(nn.Module):
    """Some function between two layers of 4 -> 8 -> 8 -> 2."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.fc1, self.fc2, self.fc3 = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.function(torch.relu(self.fc1(x)))
        return self.fc3(torch.relu(self.fc2(x)))


def reasons(graph: Graph) -> dict[tuple[str, int], Frozen]:
    return {(f.parameter, f.dim): f for f in graph.frozen}


def test_an_unknown_operator_freezes_what_it_touches_and_nothing_else() -> None:
    class Scan(Middle):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.ops.aten.logcumsumexp(torch.relu(self.fc1(x)), -1)  # the line at fault
            return self.fc3(torch.relu(self.fc2(x)))

    graph = trace(Scan(torch.tanh), torch.zeros(1, 4))
    assert [g.id for g in graph.groups] == ["fc2"]
    for place in (("fc1.weight", 0), ("fc1.bias", 0), ("fc2.weight", 1)):
        frozen = reasons(graph)[place]
        assert frozen.op == "logcumsumexp"
        assert frozen.reason == "no rule for operator logcumsumexp"
        path, line = frozen.source.rsplit(":", 1)
        with open(path) as file:
            assert "the line at fault" in file.readlines()[int(line) - 1]
    assert "no rule for operator logcumsumexp" in str(graph)


def test_a_rule_that_raises_freezes(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Value:
        raise ZeroDivisionError("a slip")

    monkeypatch.setitem(RULES, "tanh", broken)
    graph = trace(Middle(torch.tanh), torch.zeros(1, 4))
    assert [g.id for g in graph.groups] == ["fc2"]
    assert "the rule failed (ZeroDivisionError: a slip)" in reasons(graph)["fc1.weight", 0].reason


def test_a_rule_that_predicts_a_wrong_shape_freezes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "tanh", lambda *_, **__: Value((3, 3)))
    graph = trace(Middle(torch.tanh), torch.zeros(1, 4))
    assert "another shape" in reasons(graph)["fc1.weight", 0].reason


@pytest.mark.parametrize(
    ("function", "word"),
    [
        (lambda x: nn.functional.layer_norm(x, (8,)), "layer_norm normalises over it"),
        (lambda x: torch.softmax(x, -1), "softmax normalises over it"),
        (lambda x: x - x.mean(-1, keepdim=True), "mean reduces over it"),
        (lambda x: x * torch.arange(8.0), "may not shrink"),
        (lambda x: x[:, torch.tensor([1, 0, 3, 2, 5, 4, 7, 6])], "indexed by a tensor"),
        (lambda x: x.cumsum(-1), "cumsum works along it"),
        (lambda x: x @ x.T @ x, "contracted between two activations"),
        (lambda x: x.sum(-1, keepdim=True) * x, "sum reduces over it"),
    ],
)
def test_what_would_change_with_the_width_is_frozen(function: Callable[[Tensor], Tensor], word: str) -> None:
    graph = trace(Middle(function), torch.zeros(2, 4))
    assert [g.id for g in graph.groups] == ["fc2"]
    assert word in reasons(graph)["fc1.weight", 0].reason


@pytest.mark.parametrize(
    "function",
    [
        torch.tanh,
        lambda x: x * 2 + 1,
        lambda x: x.view(-1, 8, 1).squeeze(-1),
        lambda x: x.clamp_(0, 1).masked_fill(x > 0.5, 0.0),
        lambda x: torch.roll(x.flip(-1), 3, -1),
        lambda x: x.unsqueeze(1).expand(-1, 3, -1).amax(1),
        lambda x: torch.stack([x, x], 1).sum(1),
        lambda x: torch.einsum("bc->bc", x),
        lambda x: nn.functional.pad(x[:, None], (0, 0, 1, 1))[:, 1],
    ],
)
def test_what_treats_all_units_alike_leaves_them_free(function: Callable[[Tensor], Tensor]) -> None:
    graph = trace(Middle(function), torch.zeros(2, 4))
    assert [(g.id, g.size) for g in graph.groups] == [("fc1", 8), ("fc2", 8)]


class Unbatched(nn.Module):
    """Convolves one sample after another, without a batch dimension."""

    def __init__(self, rank: int, transposed: bool) -> None:
        super().__init__()
        kinds = ("ConvTranspose" if transposed else "Conv", "MaxPool")
        conv, pool = (getattr(nn, f"{kind}{rank}d") for kind in kinds)
        self.first, self.pool, self.second = conv(3, 8, 3), pool(2), conv(8, 5, 1)
        self.fc1, self.fc2 = nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        one = self.second(self.pool(torch.relu(self.first(x[0])))).flatten(1).mean(1)
        return self.fc2(torch.relu(self.fc1(one)))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_convolution_without_a_batch_freezes_and_the_rest_is_free(rank: int, transposed: bool) -> None:
    graph = trace(Unbatched(rank, transposed), torch.zeros(2, 3, *([6] * rank)))
    assert [g.id for g in graph.groups] == ["fc1"]
    assert "without batch dimension" in reasons(graph)["first.weight", 1 if transposed else 0].reason
    assert graph.total_macs() > 0


class MadeWeight(nn.Module):
    """The weight of a convolution is made from the input, one for all samples or one for each of them."""

    def __init__(self, each: bool) -> None:
        super().__init__()
        self.each = each
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.make, self.fc1, self.fc2 = nn.Linear(3, 72 if each else 64), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y, b = torch.relu(self.first(x)), x.shape[0]
        made = self.make(x.mean((2, 3)))
        if self.each:
            y = nn.functional.conv2d(
                y.reshape(1, b * 8, 4, 4), made.view(b * 8, 1, 3, 3), None, 1, 1, 1, b * 8
            )
        else:
            y = nn.functional.conv2d(y, made.mean(0).view(8, 8, 1, 1))
        return self.fc2(torch.relu(self.fc1(self.last(y.view(b, 8, 4, 4)).mean((2, 3)))))


@pytest.mark.parametrize("each", [False, True])
def test_a_weight_that_is_made_from_the_input_is_never_guessed(each: bool) -> None:
    graph = trace(MadeWeight(each), torch.zeros(2, 3, 4, 4))
    assert {"last", "fc1"} <= {g.id for g in graph.groups}
    made = {s.parameter for g in graph.groups for s in g.slices if s.parameter.startswith("make")}
    assert made == ({"make.weight", "make.bias"} if each else set())
    if each:  # a channel of the first layer, and the nine entries of the weight that convolve it
        assert graph.group("first").owner("make.weight", 0) == tuple(i // 9 for i in range(72))


def test_weight_norm_freezes_and_says_what_to_do() -> None:
    model = Middle(torch.tanh)
    nn.utils.parametrizations.weight_norm(model.fc2)
    graph = trace(model, torch.zeros(2, 4))
    assert graph.groups == ()
    assert "remove_parametrizations" in reasons(graph)["fc2.parametrizations.weight.original1", 0].reason


def test_units_that_hang_together_name_the_first_call_that_carries_them() -> None:
    graph = trace(Middle(lambda x: x + x.mean(0, keepdim=True).roll(1, -1)), torch.zeros(2, 4))
    assert [g.id for g in graph.groups] == ["fc2"]
    frozen = reasons(graph)["fc1.weight", 0]
    assert (frozen.reason.split(":")[0], frozen.op) == ("all its units hang together", "add")


def test_parameters_without_users_are_frozen() -> None:
    model = Middle(torch.tanh)
    model.unused = nn.Linear(5, 5)
    graph = trace(model, torch.zeros(1, 4))
    assert [g.id for g in graph.groups] == ["fc1", "fc2"]
    assert reasons(graph)["unused.weight", 0].reason == "is not used"
    assert graph.shapes({})["unused.weight"] == (5, 5)


def test_memory_shared_in_another_form_is_frozen() -> None:
    model = Middle(torch.tanh)
    model.fc2.weight = nn.Parameter(model.fc1.weight.detach().new_zeros(8, 8))
    model.fc1.bias = nn.Parameter(model.fc2.weight.detach()[0])
    graph = trace(model, torch.zeros(1, 4))
    assert graph.groups == ()
    assert reasons(graph)["fc1.bias", 0].reason == "shares its memory with a tensor of another form"


def test_a_constant_that_is_no_buffer_keeps_its_size() -> None:
    model = Middle(torch.tanh)
    scale = torch.rand(8)
    model.function = lambda x: x * scale
    graph = trace(model, torch.zeros(1, 4))
    assert [g.id for g in graph.groups] == ["fc2"]


def test_a_group_of_one_unit_is_frozen() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Unflatten(1, (2, 2)), nn.Softmax(-1), nn.Flatten(),
                          nn.Linear(4, 2))  # fmt: skip
    graph = trace(model, torch.zeros(1, 4))
    assert [(g.id, g.size) for g in graph.groups] == [("0", 2)]
    single = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Unflatten(1, (1, 4)), nn.Softmax(-1), nn.Flatten(),
                           nn.Linear(4, 2))  # fmt: skip
    assert trace(single, torch.zeros(1, 4)).groups == ()


def test_two_rules_for_one_operator_are_refused() -> None:
    from secateur.graph.rules import rule

    with pytest.raises(ValueError, match="conv2d has two rules"):
        rule("conv2d")(lambda: None)


def test_slice_writes_bind_the_tensor_that_they_write_into() -> None:
    def write(x: Tensor) -> Tensor:
        held = torch.zeros(x.shape[0], 8)
        held[:, :4] = x[:, 4:]
        return held

    graph = trace(Middle(write), torch.zeros(2, 4))
    (bound,) = (
        g for g in graph.groups if g.producers and g.consumers and g.producers[0].parameter == "fc1.weight"
    )
    assert bound.owner("fc1.weight", 0) == (-1, -1, -1, -1, 0, 1, 2, 3)
    assert bound.owner("fc2.weight", 1) == (0, 1, 2, 3, -1, -1, -1, -1)

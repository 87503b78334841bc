"""Groups that eager editing cannot carry out are found before, named, and leave the others free."""

from collections.abc import Callable

import pytest
import torch
from models import SMALL, Residual, randomise
from torch import Tensor, nn

from secateur.graph import trace
from secateur.ground.errors import SurgeryError
from secateur.surgery import apply, editable, edits, make_plan, mask, removable, verify


class Attention(nn.Module):
    """Self-attention whose forward reads its number of heads; with `literal` it is written into the code."""

    def __init__(self, literal: bool = False, mlp: bool = True) -> None:
        super().__init__()
        self.heads, self.literal, self.mlp = 3, literal, mlp
        self.width = 12
        self.qkv, self.out = nn.Linear(6, 36), nn.Linear(12, 6)
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        heads = 3 if self.literal else self.heads
        q, k, v = self.qkv(x).reshape(n, t, 3, heads, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        y = self.out(y.reshape(n, t, -1 if not self.literal else 12))
        return y + self.down(torch.relu(self.up(y))) if self.mlp else y


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_every_group_of_the_small_models_can_be_edited(case: object) -> None:
    model = case.model()
    graph = trace(model, case.inputs())
    found = editable(model, graph)
    assert found.refused == {}
    assert set(found.groups) == {group.id for group in graph.groups}
    assert removable(model, graph).refused == {}


def test_heads_whose_number_is_a_constant_in_the_code_go_with_that_number() -> None:
    model = randomise(Attention(literal=True), 0).eval()
    x = torch.randn(2, 5, 6)
    graph = trace(model, x)
    assert editable(model, graph).refused == {}
    kept = {"qkv": (0, 2), "up": (1, 5)}
    small = apply(model, make_plan(model, graph, kept))
    assert isinstance(small, Attention)
    assert verify(mask(model, graph, kept), small, graph, kept, (x,)).relative < 1e-5


def test_an_attribute_that_holds_the_constant_is_set() -> None:
    model = randomise(Attention(), 0).eval()
    x = torch.randn(2, 5, 6)
    graph = trace(model, x)
    assert editable(model, graph).refused == {}
    kept = {"qkv": (0, 2), "up": (1, 5)}
    small = apply(model, make_plan(model, graph, kept))
    assert small.heads == 2
    assert model.heads == 3
    assert verify(mask(model, graph, kept), small, graph, kept, (x,)).relative < 1e-5


class Scaled(nn.Module):
    """Divides by a size that pruning changes: no shape tells, only the constant in the program."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        return self.c(torch.relu(self.b(x / x.shape[1])))


def test_a_size_that_is_used_as_a_number_is_found() -> None:
    model = randomise(Scaled(), 0).eval()
    found = editable(model, trace(model, torch.randn(2, 4)))
    assert found.groups == ("b",)
    assert "div" in found.refused["a"]


def sabotage_weight(model: nn.Module) -> None:
    model.b1.weight.data[0] += 0.5


def sabotage_groups(model: nn.Module) -> None:
    model.a1.dilation, model.a1.padding = (2, 2), (2, 2)


def sabotage_order(model: nn.Module) -> None:
    model.relu = nn.Tanh()


def sabotage_shape(model: nn.Module) -> None:
    model.fc = nn.Linear(model.fc.in_features, 5)


@pytest.mark.parametrize(
    ("sabotage", "message"),
    [
        (sabotage_weight, "first at conv2d in b1"),
        (sabotage_groups, r"conv2d in a1 .*arguments"),
        (sabotage_order, "tanh in relu"),
        (sabotage_shape, r"linear in fc .*shape \(2, 5\), predicted was \(2, 4\)"),
    ],
)
def test_verify_names_the_first_call_that_differs(
    sabotage: Callable[[nn.Module], None], message: str
) -> None:
    model = randomise(Residual(), 0).eval()
    x = torch.randn(2, 3, 8, 8)
    graph = trace(model, x)
    kept = {group.id: tuple(range(group.size - 1)) for group in graph.groups}
    small = apply(model, make_plan(model, graph, kept))
    masked = mask(model, graph, kept)
    assert verify(masked, small, graph, kept, (x,)).nodes_compared > 10
    sabotage(small)
    with pytest.raises(SurgeryError, match=message):
        verify(masked, small, graph, kept, (x,))


class Cancels(nn.Module):
    """Two large sums of the same units, of which only the difference is left: rounding is nearly all that one sees."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(16, 400), nn.Linear(400, 8)
        with torch.no_grad():
            self.down.weight.copy_(1e4 * torch.randn(8, 200).repeat(1, 2))
            self.down.weight[:, 200:] *= -1
            self.up.weight[200:] = self.up.weight[:200] + 1e-4 * torch.randn(200, 16)
            self.up.bias[200:] = self.up.bias[:200]

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu())


def test_rounding_that_a_network_amplifies_is_no_difference() -> None:
    model, x = Cancels().eval(), torch.randn(64, 16)
    graph = trace(model, x[:2])
    (group,) = graph.groups
    kept = {group.id: tuple(u for u in range(400) if u % 200 % 3)}
    small = apply(model, make_plan(model, graph, kept))
    masked = mask(model, graph, kept)
    assert verify(masked, small, graph, kept, (x,)).relative > 1e-4
    with torch.no_grad():
        small.down.weight[0, 0] *= 1.001
    with pytest.raises(SurgeryError, match="differs from the masked one"):
        verify(masked, small, graph, kept, (x,))


def test_inputs_that_are_not_finite_are_told_apart() -> None:
    model = randomise(Residual(), 0).eval()
    graph = trace(model, torch.randn(2, 3, 8, 8))
    small = apply(model, make_plan(model, graph, {}))
    with pytest.raises(SurgeryError, match="not finite"):
        verify(model, small, graph, {}, (torch.full((2, 3, 8, 8), float("nan")),))


def test_models_are_left_in_the_mode_in_which_they_were() -> None:
    model = randomise(Residual(), 0).train()
    model.bn_a.eval()
    graph = trace(model, torch.randn(2, 3, 8, 8))
    small = apply(model, make_plan(model, graph, {}))
    verify(mask(model, graph, {}), small, graph, {}, (torch.randn(2, 3, 8, 8),))
    assert small.training
    assert not small.bn_a.training
    assert small.bn_b.training


def test_a_group_that_is_no_branch_keeps_a_unit() -> None:
    model = randomise(Residual(), 0)
    graph = trace(model, torch.randn(2, 3, 8, 8))
    stream = next(group.id for group in graph.groups if not group.removable)
    with pytest.raises(SurgeryError, match=f"group {stream}"):
        edits(model, graph, {stream: ()})


class Odd(nn.Conv2d):
    pass


def test_a_branch_of_unknown_layers_is_refused_with_its_group() -> None:
    model = Residual()
    model.a1 = Odd(8, 6, 3, padding=1)
    graph = trace(model, torch.randn(2, 3, 8, 8))
    found = removable(model, graph)
    assert found.groups == ("a2",)
    assert "branch of group a1 cannot be removed: layer a1 is a Odd" in found.refused["a1"]


class Balanced(nn.Module):
    """Two layers that cannot both lose a unit, for a reason that lies in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(4, 6)
        self.c, self.d, self.e = nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.relu(self.a(x)), torch.relu(self.b(x))
        if a.shape[1] + b.shape[1] == 10:
            raise ValueError("not both")
        return self.e(torch.relu(self.c(a) + self.d(b)))


def test_groups_that_only_fail_together_are_refused_together() -> None:
    model = randomise(Balanced(), 0).eval()
    graph = trace(model, torch.randn(2, 4))
    found = editable(model, graph)
    assert found.groups == ()
    assert set(found.refused) == {group.id for group in graph.groups}
    assert all("not both" in reason for reason in found.refused.values())
    assert editable(model, graph, ["a", "c"]).groups == ("a", "c")


def test_an_attention_keeps_a_head_and_does_not_stand_in_the_way_of_other_branches() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.attention = nn.Linear(6, 6), Attention(mlp=False)
            self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 7), nn.Linear(7, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = x + self.attention(x)
            return x + self.down(torch.tanh(self.up(self.norm(x))))

    model = randomise(Block(), 0).eval()
    graph = trace(model, torch.randn(2, 5, 6))
    found = removable(model, graph)
    assert "up" in found.groups
    assert "keep one of its heads" in found.refused["attention.qkv"]

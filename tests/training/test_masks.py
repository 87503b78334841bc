from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from torch import Tensor, nn

from secateur.ground.errors import TrainingError, UnknownNameError
from secateur.training import Masks


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Masks, Masks]:
    shapes = {name: draw(array_shapes(max_dims=3, max_side=4)) for name in "abc"}
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))

    def masks() -> Masks:
        names = draw(st.sets(st.sampled_from("abc")))
        return Masks({n: torch.rand(shapes[n], generator=generator) < 0.6 for n in sorted(names)})

    return masks(), masks()


@given(pairs())
def test_intersections_are_the_lower_bound(masks: tuple[Masks, Masks]) -> None:
    a, b = masks
    both = a & b
    assert both == b & a
    assert both <= a
    assert both <= b
    assert both & a == both
    assert (a <= b) == (a & b == a & Masks({n: torch.ones_like(m) for n, m in b.items()}))
    for name, mask in both.items():
        whole = torch.ones_like(mask)
        assert torch.equal(mask, a.get(name, whole) & b.get(name, whole))


@given(pairs())
def test_counts(masks: tuple[Masks, Masks]) -> None:
    a, _ = masks
    assert a.total == sum(m.numel() for m in a.values())
    assert a.kept == sum(bool(v) for m in a.values() for v in m.flatten())
    assert a.share == (a.kept / a.total if a else 1.0)
    assert Masks.from_state(a.state_dict()) == a


def test_full_masks_keep_all_parameters_and_shared_ones_once() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    masks = Masks.full(model)
    assert list(masks) == ["embed.weight"]
    assert masks.total == 15
    assert masks.share == 1
    with pytest.raises(UnknownNameError, match=r"head.weight.*shared: call it 'embed.weight'"):
        Masks.full(model, ["head.weight"])


def test_applying_writes_positive_zeros_and_nothing_else() -> None:
    model = network()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    mask = torch.rand(4, 3, generator=torch.Generator().manual_seed(1)) < 0.5
    with torch.no_grad():
        model[0].weight.copy_(-model[0].weight.abs())
    Masks({"0.weight": mask}).applied(model)
    weight = model[0].weight
    assert not weight[~mask].any()
    assert not weight[~mask].signbit().any()
    assert weight[mask].any()
    for name, parameter in model.named_parameters():
        if name != "0.weight":
            assert torch.equal(parameter, before[name])


def test_names_do_not_depend_on_compilation() -> None:
    model = network()
    compiled = torch.compile(model)
    assert list(Masks.full(compiled)) == list(Masks.full(model))
    Masks({"3.bias": torch.zeros(2, dtype=torch.bool)}).applied(compiled)
    assert not model[3].bias.any()


@pytest.mark.parametrize(
    ("masks", "kind", "message"),
    [
        (
            {"0.wieght": torch.ones(4, 3, dtype=torch.bool)},
            UnknownNameError,
            "Did you mean '0.weight'",
        ),
        ({"0.weight": torch.ones(3, 4, dtype=torch.bool)}, TrainingError, r"'0.weight' has shape \(3, 4\)"),
    ],
)
def test_masks_that_do_not_fit(masks: dict[str, Tensor], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Masks(masks).applied(network())


def test_masks_are_boolean_and_of_one_shape() -> None:
    with pytest.raises(TrainingError, match=r"'a' has type torch.float32"):
        Masks({"a": torch.ones(2)})
    with pytest.raises(TrainingError, match="different models"):
        Masks({"a": torch.ones(2, dtype=torch.bool)}) & Masks({"a": torch.ones(3, dtype=torch.bool)})

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from secateur.ground.errors import TrainingError
from secateur.methods import GradualMagnitude, IrrelevanceDecay, Lobster, WeightDecay
from secateur.training import Global, LayerWise, Masks
from secateur.training.crop import crop_fraction, magnitudes

Scores = dict[str, Tensor]


@st.composite
def problems(draw: st.DrawFn) -> tuple[Masks, Scores]:
    """Masks over three parameters, of which one may be unscored; few distinct scores, so that many are equal."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    sizes = [draw(st.integers(1, 8)) for _ in range(3)]
    values = {
        n: torch.randint(0, 4, (s,), generator=generator).double() for n, s in zip("abc", sizes, strict=True)
    }
    masks = Masks({n: torch.rand(s, generator=generator) < 0.8 for n, s in zip("abc", sizes, strict=True)})
    scored = draw(st.sets(st.sampled_from("abc"), min_size=1))
    return masks, {n: values[n] for n in sorted(scored)}


def lowest_by_hand(masks: Masks, scores: Scores, count: int) -> Masks:
    left = [(float(s[i]), n, i) for n, s in scores.items() for i in range(len(s)) if masks[n][i]]
    result = {n: m.clone() for n, m in masks.items()}
    for _, name, index in sorted(left, key=lambda entry: entry[0])[:count]:  # stable: the first of equals
        result[name][index] = False
    return Masks(result)


@given(problems(), st.floats(0.05, 1))
def test_global_shares(problem: tuple[Masks, Scores], share: float) -> None:
    masks, scores = problem
    surplus = masks.kept - round(share * masks.total)
    if surplus > sum(int(masks[n].sum()) for n in scores):
        with pytest.raises(TrainingError, match="cannot be kept"):
            Global()(masks, scores, share)
        return
    found = Global()(masks, scores, share)
    assert found == lowest_by_hand(masks, scores, max(surplus, 0))
    assert found.kept == min(masks.kept, round(share * masks.total))


@given(problems(), st.floats(0.05, 1))
def test_layer_wise_shares(problem: tuple[Masks, Scores], share: float) -> None:
    masks, scores = problem
    found = LayerWise()(masks, scores, share)
    expected = masks
    for name, score in scores.items():
        target = max(round(share * len(score)), 1)
        expected = lowest_by_hand(expected, {name: score}, max(int(masks[name].sum()) - target, 0))
    assert found == expected


@given(problems(), st.floats(0.05, 1), st.floats(0.05, 1))
def test_less_is_a_subset_of_more(problem: tuple[Masks, Scores], one: float, other: float) -> None:
    masks, scores = problem
    scores = {n: scores.get(n, torch.ones(len(m))) for n, m in masks.items()}
    for scope in (Global(), LayerWise()):
        few, many = scope(masks, scores, min(one, other)), scope(masks, scores, max(one, other))
        assert few <= many <= masks


@pytest.mark.parametrize("fraction", [0.04, 0.1, 0.5])
def test_repeated_crops_are_those_of_torch(fraction: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.LayerNorm(30), nn.Linear(30, 7))
    names = tuple(n for n, _ in model.named_parameters())
    masks = Masks.full(model)
    scores = magnitudes(model, names)
    for _ in range(3):
        masks = crop_fraction(masks, scores, fraction)
    places = [(m, n) for m in model for n, _ in list(m.named_parameters())]
    for _ in range(3):
        torch_prune.global_unstructured(places, torch_prune.L1Unstructured, amount=fraction)
    for (module, name), path in zip(places, names, strict=True):
        # Equal magnitudes exist only among gains and biases of one value; how many go is the same there.
        theirs = getattr(module, f"{name}_mask").bool()
        assert int(theirs.sum()) == int(masks[path].sum())
        if len(scores[path].unique()) == scores[path].numel():
            assert torch.equal(theirs, masks[path])


def test_bfloat16_and_float64_weights_compete() -> None:
    scores = {
        "a": torch.tensor([1.0, 3.0], dtype=torch.bfloat16),
        "b": torch.tensor([1 + 1e-12, 2.0]).double(),
    }
    scores["b"][0] = 1 + 1e-12  # equal to 1 in float32
    masks = Masks({n: torch.ones(2, dtype=torch.bool) for n in scores})
    found = Global()(masks, scores, 0.75)
    assert found["a"].tolist() == [False, True]
    assert found["b"].all()


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan")])
@pytest.mark.parametrize("scope", [Global(), LayerWise()])
def test_shares_out_of_range(scope: Global | LayerWise, share: float) -> None:
    masks = Masks({"a": torch.ones(2, dtype=torch.bool)})
    with pytest.raises(TrainingError, match="share="):
        scope(masks, {"a": torch.rand(2)}, share)


@pytest.mark.parametrize("kind", [IrrelevanceDecay, WeightDecay, Lobster, GradualMagnitude])
def test_a_layer_that_would_be_empty_is_refused_by_name(kind: type[IrrelevanceDecay]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad():
        model[0].weight.mul_(1e-6)
    with pytest.raises(TrainingError, match=r"left of '0.weight'.*empty_layers=True"):
        kind().prune(model, Masks(), 0.3, ())
    allowed = kind(empty_layers=True).prune(model, Masks(), 0.3, ())
    assert not allowed["0.weight"].any()
    assert kind().prune(model, allowed, 0.2, ()) <= allowed  # it was empty before
    assert kind(exclude=("0.weight",)).prune(model, Masks(), 0.7, ())["1.weight"].any()

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

import secateur as sc
from secateur.ground.errors import TrainingError, UnknownNameError
from secateur.methods import Fading, IrrelevanceDecay, WeightDecay
from secateur.training import Masks, attach

Decay = IrrelevanceDecay | WeightDecay
OPTIMIZERS = {
    "sgd": partial(SGD, lr=0.1),
    "momentum, foreach": partial(SGD, lr=0.1, momentum=0.9, foreach=True),
    "adam": partial(Adam, lr=0.05),
    "adamw, fused": partial(AdamW, lr=0.05, fused=True),
}


class Words(nn.Module):
    """Embeddings, a norm, and a head that shares the embeddings' weights."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(11, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 11)
        self.head.weight = self.embed.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.norm(self.embed(words).tanh()))


def batches(count: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(0, 11, (2, 16), generator=generator)) for _ in range(count)]


def train(model: nn.Module, optimizer: Optimizer, data: Iterable[tuple[Tensor, Tensor]]) -> None:
    for x, y in data:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def train_with_penalty(
    model: nn.Module, optimizer: Optimizer, data: list[Any], penalty: Callable[[Tensor, Tensor], Tensor],
    gammas: list[float],
) -> None:  # fmt: skip
    """The published form: a first backward pass for the relevance, a second one through loss and regulariser."""
    for (x, y), gamma in zip(data, gammas, strict=True):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward(retain_graph=True)
        relevance = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        extra = sum(penalty(p, g).sum() for p, g in zip(model.parameters(), relevance, strict=True))
        optimizer.zero_grad()
        (loss + gamma * extra).backward()
        optimizer.step()


FORMS: list[tuple[Decay, Callable[[Tensor, Tensor], Tensor]]] = [
    (IrrelevanceDecay(gamma=0.03, alpha=0.02), lambda w, g: torch.exp(-g.abs() / 0.02) * w**2),
    (IrrelevanceDecay(gamma=0.03), lambda w, g: torch.exp(-g.abs()) * w**2),
    (WeightDecay(gamma=0.03), lambda w, g: w**2),
    (WeightDecay(gamma=0.03, p=1), lambda w, g: w.abs()),
]


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize(("method", "penalty"), FORMS, ids=["alpha 0.02", "alpha 1", "L2", "L1"])
def test_one_backward_pass_equals_the_published_two(
    make: Callable[..., Optimizer], method: Decay, penalty: Callable[[Tensor, Tensor], Tensor]
) -> None:
    one, two, none = Words().double(), Words().double(), Words().double()
    first = make(one.parameters())
    with method.attach(one, first):
        train(one, first, batches(5))
    train_with_penalty(two, make(two.parameters()), batches(5), penalty, [0.03] * 5)
    train(none, make(none.parameters()), batches(5))
    for p, q, r in zip(one.parameters(), two.parameters(), none.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)
        assert (p - r).abs().max() > 1e-4  # it does something


def test_strength_fades_after_each_crop() -> None:
    one, two = Words().double(), Words().double()
    method = IrrelevanceDecay(gamma=0.05, schedule=Fading(3), crop=0.25)
    first, second = SGD(one.parameters(), 0.1), SGD(two.parameters(), 0.1)
    data = batches(9)
    with method.attach(one, first) as run:
        train(one, first, data[:5])
        run.masks = masks = method.prune(one, run.masks, None, ())
        train(one, first, data[5:])
    exact = FORMS[1][1]
    gammas = [0.05 * f for f in (1, 2 / 3, 1 / 3, 0, 0)]
    train_with_penalty(two, second, data[:5], exact, gammas)
    masks.applied(two)
    with attach(two, second, masks=masks):
        train_with_penalty(two, second, data[5:], exact, gammas[:4])
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)


def test_crops_take_the_smallest_of_everything_and_tied_weights_once() -> None:
    model = Words()
    method = IrrelevanceDecay(crop=0.25)
    masks = method.prune(model, Masks(), None, ())
    total = 11 * 6 + 6 + 6 + 11
    assert masks.total == total
    assert masks.kept == total - round(0.25 * total)
    again = method.prune(model, masks, None, ())
    assert again <= masks
    assert again.kept == masks.kept - round(0.25 * masks.kept)
    assert method.prune(model, again, 0.1, ()).kept == round(0.1 * total)
    largest_gone = max(
        p[~masks[n]].abs().max().item() for n, p in model.named_parameters() if not masks[n].all()
    )
    smallest_kept = min(p[masks[n]].abs().min().item() for n, p in model.named_parameters() if masks[n].any())
    assert largest_gone <= smallest_kept


@pytest.mark.parametrize(
    "method", [IrrelevanceDecay(0.1, only=("embed",)), WeightDecay(0.1, exclude=("norm", "*.bias"))]
)
def test_a_chosen_set_alone_decays(method: Decay) -> None:
    model, plain = Words(), Words()
    first, second = SGD(model.parameters(), 0.1), SGD(plain.parameters(), 0.1)
    with method.attach(model, first) as run:
        assert list(run.masks) == ["embed.weight"]
        train(model, first, batches(1))
    train(plain, second, batches(1))
    for (name, p), q in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(p, q) == (name != "embed.weight"), name
    assert list(method.prune(model, Masks(), None, ())) == ["embed.weight"]
    with pytest.raises(UnknownNameError, match="Did you mean 'embed'"):
        IrrelevanceDecay(only=("embde",)).prune(model, Masks(), None, ())


def test_accumulated_gradients_are_one_gradient() -> None:
    one, two = Words().double(), Words().double()
    first, second = Adam(one.parameters(), 0.05), Adam(two.parameters(), 0.05)
    method = IrrelevanceDecay(gamma=0.1, alpha=0.05)
    x, y = batches(1)[0]
    with method.attach(one, first), method.attach(two, second):
        train(one, first, [(x, y)] * 3)
        for _ in range(3):
            second.zero_grad()
            for half in range(2):
                part = slice(half * 8, half * 8 + 8)
                (F.cross_entropy(two(x[part]), y[part]) / 2).backward()
            second.step()
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)


def test_a_resumed_run_goes_on_where_the_schedule_was() -> None:
    method = IrrelevanceDecay(gamma=0.1, schedule=Fading())
    whole, half, rest = Words(), Words(), Words()
    first, second, third = (SGD(m.parameters(), 0.1, 0.9) for m in (whole, half, rest))
    with method.attach(whole, first, steps=6):
        train(whole, first, batches(6))
    with method.attach(half, second, steps=6) as run:
        train(half, second, batches(6)[:4])
        state = run.state_dict()
    with method.attach(rest, third, steps=6) as run:
        rest.load_state_dict(half.state_dict())
        third.load_state_dict(second.state_dict())
        run.load_state_dict(state)
        train(rest, third, batches(6)[4:])
    for p, q in zip(whole.parameters(), rest.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IrrelevanceDecay(gamma=-1), "gamma=-1"),
        (lambda: IrrelevanceDecay(gamma=float("nan")), "gamma=nan"),
        (lambda: IrrelevanceDecay(alpha=0), "alpha=0"),
        (lambda: IrrelevanceDecay(alpha=-1), "alpha=-1"),
        (lambda: IrrelevanceDecay(crop=1), "crop=1"),
        (lambda: WeightDecay(gamma=float("inf")), "gamma=inf"),
        (lambda: WeightDecay(p=3), "p=3"),  # type: ignore[arg-type]
        (lambda: Fading(0), "steps=0"),
        (
            lambda: IrrelevanceDecay(schedule=Fading()).attach(m := Words(), SGD(m.parameters(), 0.1)),
            "Fading",
        ),
        (lambda: IrrelevanceDecay().prune(Words(), Masks(), 1.5, ()), r"share=1.5"),
    ],
)
def test_options_out_of_range(make: Callable[[], object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        make()


def test_gradients_that_are_not_finite_name_the_parameter() -> None:
    model = Words()
    optimizer = SGD(model.parameters(), 0.1)
    x, y = batches(1)[0]
    with sc.IrrelevanceDecay(gamma=1e-4).attach(model, optimizer):
        F.cross_entropy(model(x), y).backward()
        assert model.norm.bias.grad is not None
        model.norm.bias.grad[0] = float("nan")
        with pytest.raises(TrainingError, match=r"'norm.bias' is not finite"):
            optimizer.step()

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import SGD, Adam, AdamW, Optimizer

from secateur.ground.errors import TrainingError, UnknownNameError
from secateur.training import Masks, Rule, Step, attach

OPTIMIZERS = [
    pytest.param(partial(kind, lr=0.05, weight_decay=0.01, **options, **form), id=f"{kind.__name__}-{form}")
    for kind, options in ((SGD, {"momentum": 0.9, "nesterov": True}), (Adam, {"amsgrad": True}), (AdamW, {}))
    for form in ({"foreach": False}, {"foreach": True}, {"fused": True})
]
MakeOptimizer = Callable[[Any], Optimizer]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))


def batches(count: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(16, 6, generator=generator), torch.randint(0, 3, (16,), generator=generator))
        for _ in range(count)
    ]


def some_masks(model: nn.Module, seed: int = 0, share: float = 0.5) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    return Masks({n: torch.rand(p.shape, generator=generator) < share for n, p in model.named_parameters()})


def train(model: nn.Module, optimizer: Optimizer, data: list[tuple[Tensor, Tensor]]) -> None:
    for x, y in data:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def assert_held(model: nn.Module, optimizer: Optimizer, masks: Masks) -> None:
    for name, parameter in model.named_parameters():
        gone = ~masks[name]
        assert not parameter[gone].any(), name
        for value in optimizer.state[parameter].values():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                assert not value[gone].any(), name


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_masked_training_is_training_of_a_network_with_masks_inside(make: MakeOptimizer) -> None:
    model, oracle = network(), network()
    masks, data = some_masks(model), batches(6)
    masks.applied(oracle)
    optimizer, reference = make(model.parameters()), make(oracle.parameters())
    with attach(model, optimizer, masks=masks) as run:
        train(model, optimizer, data)
        assert run.masks == masks
    for x, y in data:
        reference.zero_grad()
        inside = {n: p * masks[n] for n, p in oracle.named_parameters()}
        F.cross_entropy(functional_call(oracle, inside, x), y).backward()
        reference.step()
    assert_held(model, optimizer, masks)
    for p, q in zip(model.parameters(), oracle.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_momentum_cannot_revive_a_weight(make: MakeOptimizer) -> None:
    model = network()
    optimizer, masks = make(model.parameters()), some_masks(model)
    train(model, optimizer, batches(3))  # momentum of every weight
    with attach(model, optimizer, masks=masks) as run:
        assert_held(model, optimizer, masks)
        train(model, optimizer, batches(2, seed=1))
        assert_held(model, optimizer, masks)
        run.masks = smaller = masks & some_masks(model, seed=5)
        assert_held(model, optimizer, smaller)
        train(model, optimizer, batches(2, seed=2))
        assert_held(model, optimizer, smaller)


def test_leaving_removes_every_hook_and_the_model_is_as_it_was() -> None:
    model = network()
    keys, kinds = list(model.state_dict()), [type(m) for m in model.modules()]
    optimizer = SGD(model.parameters(), 0.1)

    def interrupted() -> None:
        assert list(model.state_dict()) == keys
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), attach(model, optimizer, masks=some_masks(model)):
        interrupted()
    assert [type(m) for m in model.modules()] == kinds
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    masked = model[0].weight == 0
    train(model, optimizer, batches(1))
    assert model[0].weight[masked].all()


def test_gradient_accumulation_autocast_and_a_compiled_forward() -> None:
    model = network()
    compiled = torch.compile(model, backend="aot_eager")
    optimizer, masks = AdamW(model.parameters(), 0.05), some_masks(model)
    seen: list[int] = []

    class Count(Rule):
        def before(self, step: Step, masks: Masks) -> None:
            seen.append(step.count)

    with attach(compiled, optimizer, masks=masks, rule=Count()):
        for n, (x, y) in enumerate(batches(6)):
            with torch.autocast("cpu", torch.bfloat16):
                logits = compiled(x)
            (F.cross_entropy(logits.float(), y) / 3).backward()
            if n % 3 == 2:
                optimizer.step()
                optimizer.zero_grad()
                assert_held(model, optimizer, masks)
    assert seen == [0, 1]


def test_a_closure_is_hooked_after_its_backward() -> None:
    plain, closed = network(), network()
    masks, data = some_masks(plain), batches(4)
    first, second = SGD(plain.parameters(), 0.1, 0.9), SGD(closed.parameters(), 0.1, 0.9)
    with attach(plain, first, masks=masks):
        train(plain, first, data)
    with attach(closed, second, masks=masks):
        for n, (x, y) in enumerate(data):

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                second.zero_grad()
                loss = F.cross_entropy(closed(x), y)
                loss.backward()
                return loss

            loss = second.step(closure) if n % 2 else second.step(closure=closure)
            assert isinstance(loss, Tensor)
    for p, q in zip(plain.parameters(), closed.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_run_resumes_bit_equal() -> None:
    def start() -> tuple[nn.Sequential, Optimizer]:
        model = network()
        return model, Adam(model.parameters(), 0.02)

    model, optimizer = start()
    masks = some_masks(model)
    with attach(model, optimizer, masks=masks):
        train(model, optimizer, batches(6))
    half, first = start()
    with attach(half, first, masks=masks) as run:
        train(half, first, batches(6)[:3])
        state = {k: v.clone() for k, v in run.state_dict().items()}
    again, second = start()
    with attach(again, second) as run:
        again.load_state_dict(half.state_dict())
        second.load_state_dict(first.state_dict())
        run.load_state_dict(state)
        assert run.masks == masks
        train(again, second, batches(6)[3:])
        assert int(run.state_dict()["steps"]) == 6
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_stop_the_step(bad: float) -> None:
    model = network()
    optimizer = SGD(model.parameters(), 0.1)
    with attach(model, optimizer):
        train(model, optimizer, batches(1))
        before = [p.detach().clone() for p in model.parameters()]
        assert model[3].bias.grad is not None
        model[3].bias.grad[1] = bad
        with pytest.raises(TrainingError, match=r"gradient of '3.bias' is not finite; the step was not made"):
            optimizer.step()
    for p, q in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, q)


def test_fused_optimisers_under_a_scaler() -> None:
    model = network()
    masks, (x, y) = some_masks(model), batches(1)[0]
    fused = SGD(model.parameters(), 0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with attach(model, fused, masks=masks):
        scaler.scale(F.cross_entropy(model(x), y)).backward()
        with pytest.raises(TrainingError, match=r"fused=False, or call scaler.unscale_"):
            scaler.step(fused)
        fused.grad_scale = None  # the scaler takes it away only when the step went well
        fused.zero_grad()
        other = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        other.scale(F.cross_entropy(model(x), y)).backward()
        other.unscale_(fused)
        other.step(fused)
        assert_held(model, fused, masks)
        # The scaler finds an overflow: the step is left out, and no error is made of it.
        other.update()
        fused.zero_grad()
        other.scale(F.cross_entropy(model(x), y) * float("inf")).backward()
        other.unscale_(fused)
        before = model[0].weight.detach().clone()
        other.step(fused)
        assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("scale", [1.0, float("inf")])
def test_other_optimisers_under_a_scaler(scale: float) -> None:
    model = network()
    masks, (x, y) = some_masks(model), batches(1)[0]
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9, foreach=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with attach(model, optimizer, masks=masks) as run:
        scaler.scale(F.cross_entropy(model(x), y) * scale).backward()
        scaler.step(optimizer)
        assert_held(model, optimizer, masks)
        assert int(run.state_dict()["steps"]) == (scale == 1)


def test_what_does_not_fit_is_refused() -> None:
    model = network()
    with pytest.raises(TrainingError, match="holds no parameter of this model"):
        attach(model, SGD(network().parameters(), 0.1))
    with pytest.raises(UnknownNameError, match=r"Did you mean '0.weight'"):
        attach(model, SGD(model.parameters(), 0.1), masks=Masks({"0.weigth": torch.ones(8, 6) > 0}))
    with attach(model, SGD(model.parameters(), 0.1), masks=some_masks(model)) as run:
        with pytest.raises(TrainingError, match="only shrink"):
            run.masks = Masks.full(model)
        with pytest.raises(TrainingError, match="lacks"):
            run.load_state_dict({})
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = SGD(embedding.parameters(), 0.1)
    embedding(torch.tensor([1])).sum().backward()
    with attach(embedding, optimizer), pytest.raises(TrainingError, match="'weight' is sparse"):
        optimizer.step()


def test_parameters_without_a_gradient_are_left_alone() -> None:
    model = network()
    model[0].requires_grad_(False)
    before = model[0].weight.detach().clone()
    masks = Masks({"0.weight": torch.rand(8, 6) < 0.5, "3.weight": torch.rand(3, 8) < 0.5})
    optimizer = SGD(model.parameters(), 0.1)
    with attach(model, optimizer, masks=masks):
        train(model, optimizer, batches(2))
    assert torch.equal(model[0].weight, before * masks["0.weight"])
    assert not model[3].weight[~masks["3.weight"]].any()

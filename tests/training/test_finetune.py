"""Fine-tuning with labels and a teacher, and results that are trained further."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models import SMALL
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import secateur as sc
from secateur.ground.errors import DataError, SurgeryError
from secateur.surgery import apply


def task(seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    """A model, and inputs whose labels can be learned."""
    case = next(case for case in SMALL if case.name == "residual")
    x = case.inputs(48, seed=seed)
    return case.model(seed), x, (x.mean((1, 2, 3)) > 0).long()


def halved(model: nn.Module, x: Tensor, **options: Any) -> sc.Result:
    return sc.prune(
        model,
        x[:2],
        method=sc.Magnitude(),
        budget=sc.Budget(macs=0.5),
        calibration=x.split(8),
        progress=False,
        **options,
    )


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4, 4)])
def test_the_loss_is_the_divergence_of_softened_predictions(
    temperature: float, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    p, q = ((logits / temperature).softmax(1) for logits in (teacher, student))
    expected = temperature**2 * (p * (p / q).log()).sum(1).mean()
    assert float(sc.training.distillation_loss(student, teacher, temperature)) == pytest.approx(
        float(expected)
    )
    assert float(sc.training.distillation_loss(teacher, teacher, temperature)) == pytest.approx(0, abs=1e-12)


def test_hot_gradients_match_logits() -> None:
    """At a high temperature the gradient is that of half the squared distance of centred logits (equation 4)."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 1, 6, dtype=torch.float64)
    student.requires_grad_()
    sc.training.distillation_loss(student, teacher, 1e4).backward()
    centred = [v - v.mean() for v in (student.detach(), teacher)]
    torch.testing.assert_close(student.grad, (centred[0] - centred[1]) / 6, rtol=1e-3, atol=1e-6)


def test_a_copy_learns() -> None:
    model, x, y = task()
    model.get_submodule("bn_a").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = {name: m.training for name, m in model.named_modules()}
    tuned = sc.finetune(model, DataLoader(TensorDataset(x, y), batch_size=8), epochs=16)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name: m.training for name, m in model.named_modules()} == modes
    assert {name: m.training for name, m in tuned.named_modules()} == modes
    assert all(p.grad is None for p in (*tuned.parameters(), *model.parameters()))
    with torch.no_grad():
        assert F.cross_entropy(tuned.eval()(x), y) < 0.5 * F.cross_entropy(model.eval()(x), y)


def test_a_teacher_alone_is_imitated() -> None:
    case = next(case for case in SMALL if case.name == "mixer")
    teacher, student, x = case.model(0), case.model(1), case.inputs(32)
    wrong = torch.zeros(32).long()
    adam = partial(torch.optim.Adam, lr=0.01)
    tuned = sc.finetune(student, [(x, wrong)] * 4, epochs=20, optimizer=adam, teacher=teacher, weight=1.0)
    with torch.no_grad():
        wish = teacher(x)
        before, after = (float(sc.training.distillation_loss(net(x), wish)) for net in (student, tuned))
    assert after < 0.1 * before
    assert all(p.grad is None for p in teacher.parameters())


def test_frozen_parameters_stay() -> None:
    model, x, y = task()
    model.get_submodule("stem").requires_grad_(False)
    tuned = sc.finetune(model, [(x, y)])
    assert torch.equal(tuned.get_parameter("stem.0.weight"), model.get_parameter("stem.0.weight"))
    assert not torch.equal(tuned.get_parameter("fc.weight"), model.get_parameter("fc.weight"))
    with pytest.raises(ValueError, match="requires a gradient"):
        sc.finetune(model.requires_grad_(False), [(x, y)])


@pytest.mark.parametrize("sized", [True, False])
def test_the_rate_falls_to_zero(sized: bool) -> None:
    model, x, y = task()
    seen: list[float] = []

    class Loader:
        def __iter__(self) -> Any:
            return iter([(x, y), (x, y)])

    def optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        made = torch.optim.Adam(parameters, lr=0.8)
        made.register_step_pre_hook(lambda opt, *_: seen.append(opt.param_groups[0]["lr"]))
        return made

    sc.finetune(model, [(x, y), (x, y)] if sized else Loader(), epochs=2, optimizer=optimizer)
    assert seen == pytest.approx([0.8, 0.6, 0.4, 0.2] if sized else [0.8, 0.8, 0.4, 0.4])


def test_keyword_inputs_and_named_outputs() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            return {"logits": self.fc(x + y)}

    torch.manual_seed(0)
    model, x, labels = Named(), torch.randn(8, 3), torch.arange(8) % 2

    def loss(outputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs["logits"], labels)

    by_name = sc.finetune(model, [({"x": x, "y": x}, labels)], loss=loss, teacher=model)
    in_order = sc.finetune(model, [((x, x), labels)], loss=loss, teacher=model)
    assert torch.equal(by_name.fc.weight, in_order.fc.weight)
    assert not torch.equal(by_name.fc.weight, model.fc.weight)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_loader_that_is_used_up(epochs: int) -> None:
    model, x, y = task()
    with pytest.raises(DataError, match="no batches in epoch"):
        sc.finetune(model, iter([(x, y)] * (epochs - 1)), epochs=epochs)


def test_bad_arguments() -> None:
    model, x, y = task()
    with pytest.raises(DataError, match=r"\(inputs, labels\), not a Tensor"):
        sc.finetune(model, [x])
    for wrong in ({"epochs": 0}, {"weight": 1.5}):
        with pytest.raises(ValueError, match="must be at least 1"):
            sc.finetune(model, [(x, y)], **wrong)


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_a_tuned_result_is_saved_and_loaded_bit_by_bit(share: float, tmp_path: Path) -> None:
    model, x, y = task()
    result = sc.prune(
        model,
        x[:2],
        method=sc.Random(recovery=sc.Sequential()),
        budget=sc.Budget(macs=share),  # at 0.2 a whole branch is a constant, which is trained as well
        calibration=x.split(8),
        evaluate=lambda net: 0.5,
        progress=False,
    )
    tuned = result.updated(sc.finetune(result.model, [(x, y)] * 3, epochs=2, teacher=model), finetuned=0.75)
    assert tuned.report.scores is not None
    assert tuned.report.scores.finetuned == 0.75
    assert tuned.report.scores.recovered == 0.5
    loaded = sc.load(tuned.save(tmp_path / "tuned"), type(model))
    with torch.no_grad():
        expected = tuned.model(x)
        assert torch.equal(loaded(x), expected)
        assert torch.equal(apply(model, tuned.plan)(x), expected)
        assert not torch.equal(result.model(x), expected)


def test_only_the_results_own_model_is_taken() -> None:
    model, x, y = task()
    result = halved(model, x)
    with pytest.raises(SurgeryError, match="another model"):
        result.updated(model)
    with pytest.raises(ValueError, match="evaluate"):
        result.updated(sc.finetune(result.model, [(x, y)]), finetuned=0.5)

"""Fine-tuning with labels, and with the dense network as a teacher where that is wished for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.ground.copies import copied
from secateur.ground.devices import device_of, moved
from secateur.ground.errors import DataError, UsageError
from secateur.ground.inputs import Inputs, types_told
from secateur.ground.models import ModelLike, module_of
from secateur.ground.modes import evaluating, training
from secateur.ground.progress import track
from secateur.ground.tensors import floating

__all__ = ["distillation_loss", "finetune"]

SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Return ``T^2 KL(softmax(teacher / T) || softmax(student / T))``, the mean over samples.

    The square keeps gradients of one size at every temperature (Hinton et al. 2015, arXiv 1503.02531, section 2).
    Both are logits of one shape (N, classes, ...), classes along dimension 1.

    >>> logits = torch.tensor([[1.0, 2.0, 3.0]])
    >>> float(distillation_loss(logits, logits + 5))
    0.0
    """
    soft = F.log_softmax(teacher / temperature, 1), F.log_softmax(student / temperature, 1)
    divergence = F.kl_div(soft[1], soft[0], log_target=True, reduction="none").sum(1).mean()
    return temperature**2 * divergence


def finetune(
    model: ModelLike,
    loader: Iterable[Any],
    *,
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
    epochs: int = 1,
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] = SGD,
    teacher: nn.Module | None = None,
    temperature: float = 4.0,
    weight: float = 0.9,
) -> nn.Module:
    """Return a copy of a model trained further on batches of (inputs, labels); the model stays as it is.

    `inputs` is a tensor, a tuple of positional or a mapping of keyword inputs; `loss(outputs, labels)` is lowered.
    `optimizer` makes an optimiser of the parameters that require a gradient; its learning rates fall linearly to zero
    over the epochs. With a `teacher` (the dense model), ``(1 - weight) * loss + weight * distillation_loss`` is
    lowered instead, on the first floating tensor of the outputs. Randomness is the loader's and torch's own:
    ``torch.manual_seed`` fixes it. Training runs in the copy's training mode; each module's own mode returns.

    Raises:
        DataError: the loader is empty, or yields something else than pairs, or data types that the model or the loss
            does not take.
        UsageError: it is no model, `epochs` is below one, `weight` not in 0..1, or no parameter requires a gradient.
    """
    if epochs < 1 or not 0 <= weight <= 1:
        raise UsageError(f"epochs={epochs} must be at least 1, and weight={weight} lie in 0..1.")
    student = copied(module_of(model))
    parameters = [p for p in student.parameters() if p.requires_grad]
    if not parameters:
        raise UsageError("No parameter of the model requires a gradient: call model.requires_grad_() first.")
    stepper = optimizer(parameters)
    rates = [float(group["lr"]) for group in stepper.param_groups]
    length = len(loader) if isinstance(loader, Sized) else None
    device = device_of(student)

    def objective(inputs: Any, labels: Any) -> Tensor:
        outputs = Inputs.of(inputs)(student)
        value = loss(outputs, moved(labels, device))
        if teacher is None:
            return value
        with torch.no_grad():
            wish = logits(Inputs.of(inputs)(teacher))
        return (1 - weight) * value + weight * distillation_loss(logits(outputs), wish, temperature)

    with training(student), evaluating(*[teacher] if teacher is not None else []):
        for epoch in range(epochs):
            count = 0
            for inputs, labels in track(pairs(loader), f"fine-tuning, epoch {epoch + 1} of {epochs}", length):
                done = (epoch + (count / length if length else 0)) / epochs
                for group, rate in zip(stepper.param_groups, rates, strict=True):
                    group["lr"] = rate * (1 - done)
                stepper.zero_grad()
                with types_told((inputs, labels), DataError):
                    objective(inputs, labels).backward()
                stepper.step()
                count += 1
            if not count:
                raise DataError(
                    f"The loader yields no batches in epoch {epoch + 1}: give a DataLoader or a list of "
                    "(inputs, labels), not an iterator, which is used up once."
                )
    student.zero_grad()
    return student


def pairs(loader: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield the batches of a loader, which have to be (inputs, labels).

    Raises:
        DataError: one is something else.
    """
    for batch in loader:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise DataError(
                f"Training needs batches of (inputs, labels), not a {type(batch).__name__}: give a loader that "
                "yields such pairs."
            )
        yield batch[0], batch[1]


def logits(outputs: Any) -> Tensor:
    """Return the first floating tensor of the outputs."""
    found = floating([outputs])
    if not found:
        raise DataError(
            f"The model returns a {type(outputs).__name__} without floating tensors: nothing to distil."
        )
    return found[0]

"""What a step lowers: the loss, and the distance to a teacher where there is one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.ground.copies import copied
from secateur.ground.errors import DataError
from secateur.ground.inputs import Inputs, types_told

from .finetune import distillation_loss, logits
from .options import Training
from .session import Session

__all__ = ["Objective"]


class Objective:
    """The loss of a batch as a scalar with a graph; outputs are float32 also where they were computed in bfloat16."""

    def __init__(self, net: nn.Module, training: Training, session: Session) -> None:
        self._net, self._loss, self._session = net, training.loss, session
        self._options = teacher = training.teacher
        self._teacher = copied(teacher.model).to(session.device).eval() if teacher is not None else None

    def __call__(self, inputs: Any, labels: Any) -> Tensor:
        """Return the loss.

        Raises:
            DataError: the inputs or labels are of a data type that the model or the loss does not take.
        """
        with types_told((inputs, labels), DataError):
            outputs = self._run(self._net, inputs)
            value = self._loss(outputs, labels)
        if self._options is None or self._teacher is None:
            return value
        with torch.no_grad():
            wish = logits(self._run(self._teacher, inputs))
        weight, temperature = self._options.weight, self._options.temperature
        return (1 - weight) * value + weight * distillation_loss(logits(outputs), wish, temperature)

    def _run(self, net: nn.Module, inputs: Any) -> Any:
        with self._session.autocast():
            outputs = Inputs.of(inputs)(net)
        if not self._session.bf16:
            return outputs
        return pytree.tree_map_only(Tensor, lambda t: t.float() if t.dtype == torch.bfloat16 else t, outputs)

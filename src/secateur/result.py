"""What comes out of a run: a smaller model, the plan that made it, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from secateur.artefact import save
from secateur.ground.errors import SurgeryError, UsageError
from secateur.ground.tensors import tensors_of, tied_once
from secateur.report import Report, page
from secateur.surgery import Plan
from secateur.surgery.chain import after
from secateur.surgery.lineage import lineage
from secateur.training import Masks, Trained

__all__ = ["Result"]


@dataclass(frozen=True)
class Result:
    """A smaller model, the plan that made it and what was measured.

    `dense` is the model that the plan is for. After a method that removes single weights `masks` are true where its
    weights are not zero: attach them to train the network further. `trained` is there after a method that trains:
    the log of the run, and the network and its masks in the dense model's shapes.
    """

    model: nn.Module
    plan: Plan
    report: Report
    dense: nn.Module | None = field(default=None, repr=False)
    masks: Masks | None = field(default=None, repr=False)
    trained: Trained | None = field(default=None, repr=False)

    @property
    def recipe(self) -> Mapping[str, Any]:
        """How to run it again, as plain data."""
        return self.report.recipe

    @property
    def whole(self) -> Plan:
        """The plan from the network that was pruned first, where `dense` knows that it was pruned itself."""
        past = None if self.dense is None else lineage(self.dense)
        return self.plan if past is None else after(past.plan.steps, self.plan)

    def save(self, folder: str | PathLike[str]) -> Path:
        """Write an artefact: safetensors, plan, recipe, report and model card, without pickle; return its folder.

        It is loaded onto the class of the network that was pruned first, whatever was pruned and trained since.

        Raises:
            ArtefactError: see `secateur.artefact.save`.
        """
        report = self.report
        return save(
            folder,
            self.model,
            self.whole,
            report.recipe,
            report.to_json(),
            page({report.model: report}),
            report.to_card(),
        )

    def updated(self, model: nn.Module, finetuned: float | None = None) -> Result:
        """Return the result with a further trained copy of its model, ready to be saved as an artefact.

        `finetuned` is the score after training, by the same measure as `evaluate` of `prune`.

        Raises:
            SurgeryError: the model does not have the tensors of this result's model, or broke its blocks.
            UsageError: there is a score after training, but none of the dense model to compare with.

        >>> import torch, secateur as sc
        >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
        >>> x, y = torch.randn(64, 8), torch.randint(0, 4, (64,))
        >>> result = sc.prune(net, x[:2], method=sc.SNP(), budget=sc.Budget(macs=0.5), calibration=[x])
        >>> result = result.updated(sc.finetune(result.model, [(x, y)], teacher=net))
        """
        old, new = tensors_of(self.model), tensors_of(model)
        for name in sorted(old.keys() | new.keys()):
            sizes = [tuple(t[name].shape) if name in t else "missing" for t in (old, new)]
            if sizes[0] != sizes[1]:
                raise SurgeryError(
                    f"this is another model than the result's: {name} is {sizes[1]}, not {sizes[0]}."
                )
        scores = self.report.scores
        if finetuned is not None:
            if scores is None:
                raise UsageError("no score of the dense model to compare with: prune with evaluate=...")
            scores = replace(scores, finetuned=self.report.metric.checked(finetuned))
        for name, pattern in self.plan.patterns.items():
            if not pattern.obeyed(new[name].detach()):
                raise SurgeryError(
                    f"{name} does not obey its pattern of blocks any more: hold it while training, by ADMM(epochs=0)."
                )
        tensors = {name: tensor.detach().clone() for name, tensor in tied_once(model).items()}
        return replace(
            self,
            model=model,
            plan=replace(self.plan, tensors=tensors),
            report=replace(self.report, scores=scores),
        )

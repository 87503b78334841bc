"""Arguments held against what a method needs, before any work: in a call of `prune`, and in a recipe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from secateur.ground.errors import BudgetError, CalibrationError, SecateurError, UsageError
from secateur.recovery import Distill
from secateur.selection import Budget, Limits
from secateur.training import Training

from .protocol import Method

__all__ = ["Misfit", "check_options", "checked_method", "misfits"]


def checked_method(method: object, budget: object) -> Method:
    """Return the method; refuse what is no method and no budget.

    Raises:
        UsageError: one of them is not; the message says what to write.
    """
    if method is None:
        budgeted = (
            "" if budget is not None else ", and most methods need a budget, budget=sc.Budget(macs=0.5)"
        )
        raise UsageError(f"No method is given: give method=..., for instance method=sc.SNP(){budgeted}.")
    if isinstance(method, str):
        raise UsageError(f"method={method!r} is a name, as recipes have them: give the method, sc.SNP().")
    if isinstance(method, type):
        raise UsageError(f"method={method.__name__} is the class: give one of it, {method.__name__}().")
    if not isinstance(method, Method):
        raise UsageError(
            f"method={method!r} is no method: it has no label, needs and draft. See secateur.methods.Method."
        )
    if budget is not None and not isinstance(budget, Budget):
        unit = f", for instance sc.Budget(macs={budget!r})" if isinstance(budget, int | float) else ""
        raise UsageError(f"budget={budget!r} has no unit: give a Budget{unit}.")
    return method


def check_options(**given: tuple[object, type, str]) -> None:
    """Refuse options that are of another kind; each is what was given, its class, and how to write it.

    Raises:
        UsageError: one of them is; the message says what to write.
    """
    for name, (value, kind, example) in given.items():
        if value is not None and not isinstance(value, kind):
            raise UsageError(f"{name}={value!r:.60} is no {kind.__name__}: give {name}={example}.")


@dataclass(frozen=True)
class Misfit:
    """An argument that is missing, or that a method has no use for: why, and what to do in Python and in a recipe."""

    option: str
    why: str
    remedy: str
    key: str = "leave the key out"
    kind: type[SecateurError] = UsageError

    @property
    def error(self) -> SecateurError:
        """The error to raise from a call."""
        return self.kind(f"{self.why}: {self.remedy}.")


def misfits(
    method: Method,
    *,
    budget: Budget | None = None,
    calibration: Iterable[Any] | None = None,
    training: Training | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    distill: Distill | None = None,
    earlier: bool = False,
) -> Iterator[Misfit]:
    """Yield what of the arguments does not go with what the method needs.

    `earlier` says that a result is gone on from whose zeros or blocks stay.

    A recipe is held against it before any work, and so is every call of `prune`.
    """
    needs, name = method.needs, type(method).__name__
    if needs.training and training is None:
        remedy = "give training=sc.Training(loader, ...), or attach it to an optimiser of yours"
        key = "add the key, for instance {epochs: 10}"
        yield Misfit("training", f"{name} prunes while it trains", remedy, key)
    if not needs.training and training is not None:
        remedy = "leave training out, and train its result with sc.finetune"
        yield Misfit("training", f"{name} prunes without training", remedy)
    if not needs.result and earlier:
        remedy = "prune the dense model, and let blocks or training go on from the result"
        why = f"{name} removes units, which comes before zeros and blocks"
        yield Misfit("method", why, remedy, "put it before the methods that make them")
    if needs.budget and budget is None:
        remedy = "for instance budget=sc.Budget(macs=0.5)"
        key = "add the key, for instance {macs: 0.5}"
        yield Misfit("budget", f"{name} goes to a budget, and none is given", remedy, key)
    if budget is not None and needs.budgets is not None and budget.unit not in needs.budgets:
        yield _other_budget(name, budget, needs.budgets)
    if needs.calibration and calibration is None:
        remedy = "give calibration=..., a few hundred inputs in batches"
        yield Misfit("calibration", f"{name} looks at data", remedy, kind=CalibrationError)
    if not needs.limits and limits != Limits():
        yield Misfit("limits", f"{name} removes no units, so that it has no use for limits", "leave them out")
    if not needs.distill and distill is not None:
        remedy = "leave it out, and train its result with sc.finetune"
        yield Misfit("distill", f"{name} has no use for distill", remedy)


def _other_budget(name: str, budget: Budget, units: tuple[str, ...]) -> Misfit:
    if not units:
        why = f"{name} goes to no budget, its own options decide"
        return Misfit("budget", why, "leave the budget out", kind=BudgetError)
    why = f"{name} goes to budgets of {', '.join(units)}"
    remedy, key = (f"{units[0]}=0.1", f"{units[0]}: 0.1")
    return Misfit(
        "budget",
        why,
        f"give budget=sc.Budget({remedy}), not {budget.unit}",
        f"for instance {{{key}}}, not {budget.unit}",
        BudgetError,
    )

"""Masks and methods at work in an optimiser, through torch's own step hooks.

Before the step, when gradients are whole: they are checked, the method's rule changes them, and masked ones become
zero. After it, masked weights and everything that the optimiser remembers of them are zero again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import wraps
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.ground.errors import TrainingError

from .masks import Masks
from .parameters import parameters

__all__ = ["Attached", "Rule", "Step", "attach"]


@dataclass(frozen=True)
class Step:
    """One step of the optimiser as a rule sees it: the parameters that have a gradient, in the model's order.

    `count` is the number of steps that were done before this one, `since` those since the masks last shrank.
    """

    names: tuple[str, ...]
    weights: list[Tensor]
    gradients: list[Tensor]
    count: int
    since: int

    def of(self, names: frozenset[str]) -> Step:
        """Return the step of some parameters alone."""
        if names.issuperset(self.names):
            return self
        kept = [i for i, name in enumerate(self.names) if name in names]
        return Step(
            tuple(self.names[i] for i in kept),
            [self.weights[i] for i in kept],
            [self.gradients[i] for i in kept],
            self.count,
            self.since,
        )


class Rule:
    """What a method adds to each step: override what it needs. The calls run without gradient tracking."""

    @property
    def settled(self) -> bool:
        """Whether the network is what the method promises: before that no epoch of it is a result."""
        return True

    def begin(self, attached: Attached) -> None:
        """Start: the attachment, whose masks the rule may shrink from now on, is there."""

    def before(self, step: Step, masks: Masks) -> None:
        """Change the gradients in place, before they are masked and the optimiser reads them."""

    def after(self, step: Step, masks: Masks) -> Masks | None:
        """Change the weights in place, before masked ones are zeroed; return new masks to shrink to, if any."""
        return None

    def epoch_end(self, masks: Masks) -> None:
        """Do what happens between epochs."""

    def calibrate(self, batches: Iterable[Any]) -> None:
        """Look at data before the first step, where the method has a use for them."""

    def notes(self) -> Mapping[str, float]:
        """Return figures for the log, under names of its columns (see `training.log.Row`)."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that a resume needs."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` returned."""


class Attached:
    """A rule and masks at work in an optimiser, from `attach` on until `detach`, or until its context is left."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, masks: Masks, rule: Rule) -> None:
        self._model, self._optimizer, self._rule = model, optimizer, rule
        self._stepped = _stepped(model, optimizer)
        self._count = self._since = 0
        self._hold(masks)
        handles = (
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        )
        self._handles = list(handles)
        rule.begin(self)

    @property
    def masks(self) -> Masks:
        """What is kept now. Masks that are set must lie within these; what they mask is zeroed at once."""
        return self._masks

    @masks.setter
    def masks(self, masks: Masks) -> None:
        if not masks <= self._masks:
            raise TrainingError(
                "Masks only shrink within a run: combine the new ones with `&`, or attach anew."
            )
        self._hold(masks)
        self._since = 0

    @property
    def settled(self) -> bool:
        """Whether the network is what the method promises; ADMM is on its way until its last projection."""
        return self._rule.settled

    def epoch_end(self) -> None:
        """Do what the method does between epochs."""
        with torch.no_grad():
            self._rule.epoch_end(self._masks)

    def calibrate(self, batches: Iterable[Any]) -> None:
        """Show the method data before the first step: inputs, or (inputs, labels). Most have no use for them."""
        self._rule.calibrate(batches)

    def notes(self) -> Mapping[str, float]:
        """Return what the method has to say of its last epoch, for the log."""
        return self._rule.notes()

    def state_dict(self) -> dict[str, Tensor]:
        """Return masks, counters and the rule's own state as plain tensors."""
        return {
            "steps": torch.tensor(self._count),
            "steps_since_crop": torch.tensor(self._since),
            **{f"masks.{name}": mask for name, mask in self._masks.items()},
            **{f"rule.{name}": value for name, value in self._rule.state_dict().items()},
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            TrainingError: it lacks the counters, or its masks do not fit the model.
        """
        if missing := {"steps", "steps_since_crop"} - set(state):
            raise TrainingError(f"The state lacks {sorted(missing)}: it is not one of an attachment.")
        self._hold(Masks.from_state(_below("masks.", state)))
        self._rule.load_state_dict(_below("rule.", state))
        self._count, self._since = int(state["steps"]), int(state["steps_since_crop"])

    def detach(self) -> None:
        """Remove the hooks; masked weights stay zero until something else changes them."""
        while self._handles:
            self._handles.pop().remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def _hold(self, masks: Masks) -> None:
        """Zero what the masks drop, also in the optimiser, and prepare their factors for the steps."""
        masks.applied(self._model)
        self._masks = masks
        # The parameter's own type: foreach kernels then multiply without a conversion.
        self._factors = {
            parameter: masks[name].to(parameter.device, parameter.dtype)
            for name, parameter in masks.of(self._model).items()
            if parameter in self._stepped and not bool(masks[name].all())
        }
        with torch.no_grad():
            self._zero()

    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # With a closure the gradients exist only after it has run, inside of the step. args[0] is the optimiser.
        if len(args) > 1 and callable(args[1]):
            return (args[0], self._closure(args[1]), *args[2:]), kwargs
        if callable(kwargs.get("closure")):
            return args, kwargs | {"closure": self._closure(kwargs["closure"])}
        self._prepare()
        return None

    def _closure(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        @wraps(closure)
        def prepared() -> Any:
            loss = closure()
            self._prepare()
            return loss

        return prepared

    @torch.no_grad()
    def _prepare(self) -> None:
        _refuse_scaled(self._optimizer)
        if _skipped(self._optimizer):
            return
        step = self._step()
        _check_finite(step)
        self._rule.before(step, self._masks)
        held = [(p.grad, f) for p, f in self._factors.items() if p.grad is not None]
        if held:
            torch._foreach_mul_([g for g, _ in held], [f for _, f in held])

    @torch.no_grad()
    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if _skipped(optimizer):
            return
        smaller = self._rule.after(self._step(), self._masks)
        self._count, self._since = self._count + 1, self._since + 1
        self._zero()
        if smaller is not None:
            self.masks = smaller

    def _zero(self) -> None:
        """Multiply weights, and what the optimiser holds per weight (momenta, averages), by the masks."""
        held: list[Tensor] = []
        factors: list[Tensor] = []
        for parameter, factor in self._factors.items():
            held.append(parameter)
            factors.append(factor)
            for value in self._optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape and value.dim():
                    held.append(value)
                    factors.append(factor)
        if held:
            torch._foreach_mul_(held, factors)

    def _step(self) -> Step:
        active = [(n, p, p.grad) for p, n in self._stepped.items() if p.grad is not None]
        weights: list[Tensor] = [p for _, p, _ in active]
        return Step(
            tuple(n for n, _, _ in active), weights, [g for _, _, g in active], self._count, self._since
        )


def attach(
    model: nn.Module, optimizer: Optimizer, *, masks: Masks | None = None, rule: Rule | None = None
) -> Attached:
    """Let masks and a rule work in every step of an optimiser; without masks everything is kept.

    The model may be compiled or wrapped in DistributedDataParallel; wrappers of the optimiser that keep it under
    `optimizer` (Accelerate, Lightning) are looked through.

    Raises:
        TrainingError: the optimiser holds no parameter of the model, or a mask does not fit. In a step: a gradient
            is sparse or not finite, or a fused optimiser gets scaled gradients from a GradScaler.
        UnknownNameError: a mask names no parameter of the model.

    >>> net = nn.Linear(2, 1)
    >>> sgd = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    >>> with attach(net, sgd, masks=Masks({"weight": torch.tensor([[True, False]])})):
    ...     net(torch.ones(1, 2)).sum().backward()
    ...     sgd.step()
    >>> net.weight[0, 1].item()
    0.0
    """
    while not hasattr(optimizer, "_optimizer_step_pre_hooks") or hasattr(optimizer, "optimizer"):
        inner = getattr(optimizer, "optimizer", None)
        if not isinstance(inner, Optimizer):
            raise TrainingError(
                f"{type(optimizer).__name__} is no torch optimiser: its steps cannot be hooked."
            )
        optimizer = inner
    return Attached(model, optimizer, Masks() if masks is None else masks, rule or Rule())


def _stepped(model: nn.Module, optimizer: Optimizer) -> dict[nn.Parameter, str]:
    """Return the parameters of the model that the optimiser steps, with their names."""
    held = {p for group in optimizer.param_groups for p in group["params"]}
    found = {p: name for name, p in parameters(model).items() if p in held}
    if not found:
        raise TrainingError(
            "The optimiser holds no parameter of this model: make it from model.parameters(), after pruning or loading."
        )
    return found


def _refuse_scaled(optimizer: Optimizer) -> None:
    # GradScaler.step leaves unscaling to fused optimisers and says so by this attribute.
    if getattr(optimizer, "grad_scale", None) is not None:
        raise TrainingError(
            "A fused optimiser unscales gradients inside of its step, so a hook would see them scaled. Make the "
            "optimiser with fused=False, or call scaler.unscale_(optimizer) before scaler.step(optimizer)."
        )


def _skipped(optimizer: Optimizer) -> bool:
    """Whether a fused optimiser was told by a GradScaler to leave this step out."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def _check_finite(step: Step) -> None:
    for name, gradient in zip(step.names, step.gradients, strict=True):
        if gradient.layout != torch.strided:
            raise TrainingError(f"The gradient of {name!r} is sparse: make its embedding with sparse=False.")
    if not step.gradients:
        return
    # One number for all, hence one wait for the device.
    norms = torch._foreach_norm(step.gradients, float("inf"))
    device = norms[0].device
    if not bool(torch.stack([n.to(device, torch.float32) for n in norms]).isfinite().all()):
        bad = next(n for n, g in zip(step.names, step.gradients, strict=True) if not bool(g.isfinite().all()))
        raise TrainingError(
            f"The gradient of {bad!r} is not finite; the step was not made. Lower the learning rate, clip gradients, "
            "or look for a division by zero in the loss."
        )


def _below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}

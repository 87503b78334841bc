"""A forward made of a module's traced calls: for code that repeats sizes which pruning changes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from secateur.ground.errors import SurgeryError

from .plan import Plan, Retrace

__all__ = ["TRAINING", "Traced", "limits"]

TRAINING = "training"
"""The first input of the calls: the module's flag, which dropout and batch norm read."""


@dataclass(eq=False)
class Traced:
    """What a module's ``forward`` becomes: the calls of the code in its class, with the sizes that are left.

    The module keeps its class, its parameters and their names, its hooks and its flag. Modules inside it are
    not called any more, their tensors are read. Device and batch size are free, and lengths of sequences as far as
    the code leaves them; all other sizes of the inputs are those that were traced. Dropout inside a fused attention
    is that of evaluation: none.
    """

    module: str  # its path
    calls: GraphModule  # of the flag, the device, the tensors, the constants, and the inputs
    tensors: tuple[str, ...]  # parameters and buffers of the module, as the calls take them
    constants: tuple[Tensor, ...]
    device: torch.device  # on which it was traced
    inputs: tuple[int, ...]  # which leaves of the arguments the calls take
    fixed: Mapping[int, Any]  # the other leaves, which have to be what they were
    takes: pytree.TreeSpec
    returns: pytree.TreeSpec

    def install(self, module: nn.Module) -> None:
        """Make a module call this; the signature that callers see stays."""

        @functools.wraps(type(module).forward)
        def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return vars(self)["traced"](self, args, kwargs)

        vars(module)["traced"] = self
        # On the instance: the class, the names of the tensors and the hooks stay.
        vars(module)["forward"] = MethodType(forward, module)

    def __deepcopy__(self, memo: dict[int, Any]) -> Traced:
        """Return the same one: it holds nothing that changes, and reads its module's tensors when it is called."""
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse to be pickled: the module would come back with the code of its class, and compute something else.

        Raises:
            SurgeryError: always.
        """
        raise SurgeryError(
            f"{self.module or 'the model'} runs the calls of its code that were traced, which cannot be pickled. "
            "Remedy: save an artefact (result.save, secateur.load), or the state_dict alone."
        )

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the calls.

        Raises:
            SurgeryError: the arguments are not of the form that was traced.
        """
        leaves, form = pytree.tree_flatten((args, kwargs))
        name = type(module).__name__
        if form != self.takes:
            leaves, form = pytree.tree_flatten(self._as_traced(module, args, kwargs))
        if form != self.takes:
            raise SurgeryError(
                f"this pruned {name} takes arguments in the form in which it was traced only: {self.takes}"
            )
        for i, value in self.fixed.items():
            if leaves[i] is not value and leaves[i] != value:
                raise SurgeryError(
                    f"this pruned {name} was traced with {value!r}, and now gets {leaves[i]!r}: "
                    "trace and prune it with the inputs that it will see"
                )
        given = [leaves[i] for i in self.inputs]
        for value in given:
            if not isinstance(value, Tensor | int | torch.SymInt):
                raise SurgeryError(
                    f"this pruned {name} was traced with a tensor where it now gets {value!r}: its model takes "
                    "another way through its code when it is exported"
                )
        device = next(
            (v.device for v in (*given, *module.parameters()) if isinstance(v, Tensor)),
            torch.device("cpu"),
        )
        tensors = [_find(module, path) for path in self.tensors]
        # On the device of the trace they are where the code puts them: an export would record a move as a call.
        constants = [c if device == self.device else c.to(device) for c in self.constants]
        # Not as a module: an export of the whole model would take it for one that it does not know.
        made = self.calls.forward(module.training, device, *tensors, *constants, *given)
        return pytree.tree_unflatten(list(made), self.returns)

    def _as_traced(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the arguments by position and by name as those were that were traced, with the same defaults."""
        positional, named = self.takes.children()
        signature = inspect.signature(type(module).forward)
        given = signature.bind(module, *args, **kwargs)
        given.apply_defaults()
        values = list(given.arguments.items())[1:]
        first = [value for _, value in values[: positional.num_children]]
        others = {name: value for name, value in values[positional.num_children :] if name in named.context}
        left_out = [
            p for name, p in signature.parameters.items() if name in dict(values) and name not in others
        ]
        for parameter in left_out[positional.num_children :]:
            value = given.arguments[parameter.name]
            if value is not parameter.default and value not in ((), {}):
                return args, kwargs  # an argument that was not there when it was traced
        return tuple(first), {name: others[name] for name in named.context if name in others}


def _find(module: nn.Module, name: str) -> Tensor:
    path, _, leaf = name.rpartition(".")
    found: Tensor = getattr(module.get_submodule(path), leaf)
    return found


def limits(plan: Plan) -> tuple[str, ...]:
    """Return in words what each module loses that runs traced calls in place of its own code; nothing for all others.

    >>> from secateur.surgery import Fingerprint
    >>> limits(Plan({}, (Retrace("att", "00", ()),), Fingerprint("Net", "00")))[0][:58]
    'att runs the calls of its code that were traced, with the '
    """
    return tuple(_said(edit.module or "the model") for edit in plan.edits if isinstance(edit, Retrace))


def _said(module: str) -> str:
    return (
        f"{module} runs the calls of its code that were traced, with the sizes that are left, for its code repeats "
        "sizes in a way that could not be rewritten. So it takes inputs of the example's size only (but for the batch, "
        "and lengths of sequences where the code leaves them); attributes that the code sets keep their old values; "
        "adapters, hooks and quantised layers inside are passed by; and the model cannot be pickled as a whole: "
        "save an artefact, or the state_dict."
    )

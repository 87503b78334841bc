"""From a selection to a plan: edits of attributes where they suffice, traced calls where the code resists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from secateur.graph.graph import Graph
from secateur.graph.groups import Kept
from secateur.graph.program import Node
from secateur.ground.errors import SurgeryError, TraceError

from .apply import apply
from .branches import constants
from .compare import compare
from .edits import edits, owner_attributes
from .example import describe
from .fingerprint import fingerprint
from .plan import Edit, Plan, RemoveBranch, Retrace, SetAttribute
from .prediction import Prediction, predict
from .rewrites import owners, retraces

__all__ = ["make_plan"]


def make_plan(
    model: nn.Module, graph: Graph, kept: Kept, tensors: Mapping[str, Tensor] | None = None
) -> Plan:
    """Return the plan that carries out a selection.

    Sizes that code outside of layers reads are attributes of its module, as a rule, and are set. Where the model
    that comes out is not the predicted one, the modules concerned get their traced calls as a forward.
    ``tensors`` are repaired values in the smaller shapes; removed branches add the constant that the dense
    model gives them unless ``tensors`` has a better one.

    Raises:
        SurgeryError: the selection does not fit the graph, or cannot be carried out; the message names the
            group, the tensor or the call.
    """
    values = constants(model, graph, kept) | dict(tensors or {})
    plan = Plan(dict(kept), edits(model, graph, kept), fingerprint(model), values)
    prediction = predict(graph, kept)
    resized = owners(prediction)
    if not resized:
        return plan
    by_value = frozenset(owner_attributes(model, prediction)).intersection(plan.edits)
    rewritten: set[str] = set()
    while True:
        try:
            compare(apply(model, plan), graph, kept)
        except (SurgeryError, TraceError) as error:
            if by_value:  # an attribute may equal a size and mean something else
                plan = replace(plan, edits=tuple(e for e in plan.edits if e not in by_value))
                by_value = frozenset()
                continue
            more = _culprits(model, resized, error) - rewritten or set(resized) - rewritten
            if not more:
                raise
            rewritten |= more
            plan = _with_retraces(model, plan, prediction, rewritten)
        else:
            return plan


def _culprits(model: nn.Module, resized: Mapping[str, list[Node]], error: Exception) -> set[str]:
    """Return the modules that an error is about: of the type whose code stands where it was raised."""
    text = str(error)
    types = {
        type(model.get_submodule(path))
        for path, nodes in resized.items()
        if any(n.source and (f"{n.source})" in text or f"{n.source}:" in text) for n in nodes)
    }
    return {path for path in resized if type(model.get_submodule(path)) in types}


def _with_retraces(model: nn.Module, plan: Plan, prediction: Prediction, modules: Iterable[str]) -> Plan:
    """Return the plan with these modules traced, and without the attributes that only their forward reads."""
    found = retraces(model, prediction, modules)
    paths = [edit.module for edit in found]

    def inside(module: str) -> bool:
        return any(not path or module == path or module.startswith(f"{path}.") for path in paths)

    left: list[Edit] = []
    for edit in plan.edits:
        match edit:
            case Retrace():
                continue
            case SetAttribute(module, attribute) if module in paths and "heads" not in attribute:
                continue
            case RemoveBranch() if any(map(inside, edit.paths)):
                raise SurgeryError(
                    f"the branch of {edit.constants[0]} cannot be removed: code around it repeats sizes as numbers"
                )
        left.append(edit)
    args, kwargs = prediction.graph.program.exported.example_inputs
    return replace(plan, edits=(*left, *found), example=describe((args, dict(kwargs))))

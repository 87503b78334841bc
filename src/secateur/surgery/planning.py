"""From a selection to a plan: edits of attributes where they suffice, traced calls where the code resists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum

from torch import Tensor, nn

from secateur.graph.graph import Graph
from secateur.graph.groups import Kept
from secateur.ground.errors import SurgeryError, TraceError

from .apply import apply
from .branches import constants
from .compare import MismatchError, compare
from .edits import edits, owner_attributes
from .example import describe
from .fit import fingerprint
from .names import first_names
from .plan import Edit, Plan, RemoveBranch, Retrace, SetAttribute
from .prediction import Prediction, predict
from .rewrites import owners, retraces
from .rewriting import AstrayError, rewriting
from .seen import Seen, see

__all__ = ["make_plan"]


def make_plan(
    model: nn.Module, graph: Graph, kept: Kept, tensors: Mapping[str, Tensor] | None = None
) -> Plan:
    """Return the plan that carries out a selection.

    Sizes that code outside of layers reads are attributes of its module, as a rule, and are set. Where the model
    that comes out is not the predicted one, the modules concerned are watched while they run, and numbers in their code
    become others; where that cannot be, they get their traced calls as a forward (`limits` says what they lose).
    ``tensors`` are repaired values in the smaller shapes; removed branches add the constant that the dense
    model gives them unless ``tensors`` has a better one.

    Raises:
        SurgeryError: the selection does not fit the graph, or cannot be carried out; the message names the
            group, the tensor or the call.
    """
    values = constants(model, graph, kept) | dict(tensors or {})
    plan = Plan(dict(kept), edits(model, graph, kept), fingerprint(model), values)
    prediction = predict(graph, kept)
    resized = owners(model, prediction)
    if not resized:
        return plan
    try:
        compare(apply(model, plan), graph, kept)
        return plan
    except (SurgeryError, TraceError):
        # An attribute may equal a size and mean something else: which are read for one is to be seen.
        by_value = frozenset(owner_attributes(model, prediction))
    bare = replace(plan, edits=tuple(e for e in plan.edits if e not in by_value))
    return _Search(model, prediction, bare).fitting(resized)


class _Way(IntEnum):
    """How the code of a class gets other sizes: one way is tried after the other."""

    ATTRIBUTES = 0  # those that it reads, and numbers where that is not enough
    NUMBERS = 1  # everywhere
    CALLS = 2  # its traced calls in place of it


@dataclass
class _Search:
    """The search for edits with which a model is what was predicted."""

    model: nn.Module
    prediction: Prediction
    plan: Plan  # without edits of code
    ways: dict[type, _Way] = field(default_factory=dict)
    calls: set[str] = field(default_factory=set)  # modules whose code cannot be edited, whatever their class

    def _named(self, modules: Iterable[str]) -> dict[str, list[str]]:
        """Return the modules by the first of their names, with all those that are in question."""
        first = first_names(self.model)
        names: dict[str, list[str]] = {}
        for path in dict.fromkeys(modules):
            names.setdefault(first[path], []).append(path)
        return names

    def fitting(self, resized: Iterable[str]) -> Plan:
        """Return a plan with edits of these modules' code.

        Raises:
            SurgeryError: there is none, or the model is not what was predicted whatever is tried.
        """
        modules = self._named(resized)
        seen = see(self.model, self.prediction, modules)
        while True:
            plan = self._plan(seen, modules)
            try:
                compare(apply(self.model, plan), self.prediction.graph, self.prediction.kept)
            except (SurgeryError, TraceError) as error:
                if isinstance(error, MismatchError):
                    culprits = set(self._named([error.module]))
                    if not culprits <= modules.keys():  # it asks a tensor for a size, say
                        modules = self._named(
                            [*(p for paths in modules.values() for p in paths), error.module]
                        )
                        seen = see(self.model, self.prediction, modules)
                        continue
                else:
                    culprits = self._blamed(modules, error)
                if not (self._otherwise(culprits) or self._otherwise(modules)):
                    raise
            else:
                return plan

    def _plan(self, seen: Seen, modules: Mapping[str, list[str]]) -> Plan:
        while True:
            hopeless = {m for m in seen.modules if self._way(m) is _Way.CALLS}
            traced = self.calls | seen.blind | {caller for m in hopeless for caller in seen.callers(m)}
            paths = [path for module in traced for path in modules[module]]
            plan = with_retraces(self.model, self.plan, self.prediction, paths) if traced else self.plan
            try:
                found = rewriting(
                    self.model,
                    self.prediction,
                    plan,
                    seen.without(traced),
                    lambda m: self._way(m) is _Way.NUMBERS,
                )
            except AstrayError as error:
                if not self._otherwise(modules if error.module is None else {error.module}):
                    raise
                continue
            if not found.failed:
                return replace(plan, edits=(*plan.edits, *found.edits))
            self.calls |= set(found.failed)

    def _way(self, module: str) -> _Way:
        return self.ways.get(type(self.model.get_submodule(module)), _Way.ATTRIBUTES)

    def _otherwise(self, modules: Iterable[str]) -> bool:
        """Try the next way with the classes of these modules; say whether there is one."""
        types = {type(self.model.get_submodule(path)) for path in modules}
        left = [t for t in types if self.ways.get(t, _Way.ATTRIBUTES) is not _Way.CALLS]
        self.ways |= {t: _Way(self.ways.get(t, _Way.ATTRIBUTES) + 1) for t in left}
        return bool(left)

    def _blamed(self, modules: Iterable[str], error: Exception) -> set[str]:
        """Return the modules that an error is about: of the class whose code stands where it was raised."""
        text = str(error)
        sources = {
            n.source: n.module for n in self.prediction.graph.program.nodes if n.source and n.source in text
        }
        types = {type(self.model.get_submodule(path)) for path in sources.values()}
        return {path for path in modules if type(self.model.get_submodule(path)) in types}


def with_retraces(model: nn.Module, plan: Plan, prediction: Prediction, modules: Iterable[str]) -> Plan:
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
    program = prediction.graph.program
    return replace(
        plan, edits=(*left, *found), example=describe(program.example), batch_dims=program.batch_dims
    )

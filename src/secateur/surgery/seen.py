"""The code of some modules as it runs in the dense model, seen once, and what a selection wants of it."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from torch import nn

from secateur.graph.export import export_program
from secateur.ground.copies import copied
from secateur.ground.tensors import tensors_of

from .dry import dry, larger
from .names import first_names
from .prediction import Prediction
from .wanted import Evidence, Wanted, wanted
from .watch import Record, install, watches

__all__ = ["Seen", "see"]


@dataclass(frozen=True)
class Seen:
    """The code of some modules as it ran in the dense model, and what a selection wants of it."""

    asked: frozenset[str]  # the modules
    evidence: Mapping[int, Evidence]  # by watch
    wanted: Wanted

    @property
    def modules(self) -> set[str]:
        """The modules whose code was seen."""
        return {e.watch.module for e in self.evidence.values()}

    @property
    def blind(self) -> set[str]:
        """The modules of which nothing can be seen: their code has no source."""
        return set(self.asked - self.modules)

    def without(self, modules: Collection[str]) -> Seen:
        """Leave out some modules, and parts of them that nothing else calls."""
        left = {n: e for n, e in self.evidence.items() if not e.watch.callers <= set(modules)}
        return replace(self, asked=self.asked - set(modules), evidence=left)

    def callers(self, module: str) -> set[str]:
        """Return the modules whose forward one is a part of."""
        return {caller for e in self.of(module) for caller in e.watch.callers}

    def of(self, module: str) -> list[Evidence]:
        """Return what was seen of one module's functions."""
        return [e for e in self.evidence.values() if e.watch.module == module]


def see(model: nn.Module, prediction: Prediction, modules: Iterable[str]) -> Seen:
    """Export the dense model again while the code of some modules is watched.

    Raises:
        SurgeryError: the model makes other calls than when it was traced.
        TraceError: it cannot be exported.
    """
    args, kwargs = prediction.graph.program.example
    asked = frozenset(modules)
    watching = watches(model, modules)

    def twin() -> tuple[nn.Module, dict[int, Record]]:
        copy = copied(model, {id(t): t for t in tensors_of(model).values()})
        return copy, install(copy, watching)

    copy, first = twin()
    program = export_program(copy, args, kwargs)
    others = []
    for given, named in larger(args, kwargs):
        copy, records = twin()
        with contextlib.suppress(Exception):  # the model's own code: it does not take these sizes
            dry(copy, given, named)
            others.append(records)
    evidence = {w.number: Evidence(w, first[w.number], [o[w.number] for o in others]) for w in watching}
    return Seen(asked, evidence, wanted(prediction, program, evidence, first_names(model)))

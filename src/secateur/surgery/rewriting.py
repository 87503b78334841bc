"""The edits of a model's code: its numbers where they repeat sizes, found by watching it run."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from secateur.graph.export import export_program
from secateur.graph.program import Program
from secateur.ground.copies import copied
from secateur.ground.errors import SurgeryError
from secateur.ground.tensors import tensors_of

from .apply import apply
from .callees import Path
from .dry import dry, larger
from .plan import Edit, Function, Literal, Plan, RewriteCode, SetAttribute, plain
from .prediction import Prediction
from .settle import Places, Reader
from .values import worth
from .wanted import Evidence, Wanted, wanted
from .watch import Record, Watch, install, watches

__all__ = ["Astray", "Seen", "Rewriting", "rewriting", "see"]

_FILE = re.compile(r"secateur-watch-(\d+)$")
_NATIVE = "torch.backends.mha.get_fastpath_enabled()"
"""Asks whether one native call may do what the code does: it reads sizes from other places."""


class Astray(SurgeryError):
    """The code of a module cannot run in the smaller model, even with the right arguments for all its calls."""

    def __init__(self, message: str, module: str) -> None:
        super().__init__(message)
        self.module = module


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


@dataclass(frozen=True)
class Rewriting:
    """Edits of code and of the attributes that it reads, and the modules whose code cannot be edited, with the reason."""

    edits: tuple[Edit, ...]  # nothing where some failed
    failed: Mapping[str, str]


def see(model: nn.Module, prediction: Prediction, modules: Iterable[str]) -> Seen:
    """Export the dense model again while the code of some modules is watched.

    Raises:
        SurgeryError: the model makes other calls than when it was traced.
        TraceError: it cannot be exported.
    """
    args, kwargs = prediction.graph.program.exported.example_inputs
    asked = frozenset(modules)
    watching = watches(model, modules)

    def twin() -> nn.Module:
        for watch in watching:
            watch.record = Record()
        copy = copied(model, {id(t): t for t in tensors_of(model).values()})
        install(copy, watching)
        return copy

    program = export_program(twin(), args, kwargs)
    first = {w.number: w.record for w in watching}
    others: dict[int, list[Record]] = {w.number: [] for w in watching}
    for given, named in larger(args, kwargs):
        try:
            dry(twin(), given, named)
        except Exception:  # the model's own code: it does not take these sizes
            continue
        for watch in watching:
            others[watch.number].append(watch.record)
    evidence = {w.number: Evidence(w, first[w.number], others[w.number]) for w in watching}
    return Seen(asked, evidence, wanted(prediction, program, evidence, first_names(model)))


def rewriting(
    model: nn.Module, prediction: Prediction, plan: Plan, seen: Seen, literal: Callable[[str], bool]
) -> Rewriting:
    """Return what makes the code of the modules that were seen right in the model that a plan leaves.

    Attributes that hold sizes are set, and where an argument of a call is still not what it has to be, its expression
    becomes a number. In modules that are `literal` the code is to see its attributes as they were: there numbers do
    it all, and take the place of attributes that are set for others to read.

    Raises:
        Astray: the code of a module runs into an error with these attributes.
    """
    attributes = _attributes(model, seen)
    now = [edit for edit in attributes if not literal(edit.module)]
    records = _run(model, prediction, replace(plan, edits=(*plan.edits, *now)), seen)
    reader = Reader(seen.evidence, records)
    failed = {m: why for m, why in seen.wanted.failed.items() if seen.of(m)}
    places: dict[str, Places] = {}
    for number, record in records.items():
        at = seen.evidence[number]
        for (place, index), pairs in record.wrong.items():
            part = at.watch.code.source.expressions[place]
            own, want = next(iter(pairs))
            found = reader.place(at, part, index, own, want) if len(pairs) == 1 else None
            known = places.setdefault(at.watch.module, {})
            if found is None or any(known.get(key, new) != new for key, new in found.items()):
                failed.setdefault(at.watch.module, f"no number in {ast.unparse(part)[:80]} can be changed alone")
            else:
                known |= found
    if failed:
        return Rewriting((), {caller: why for m, why in failed.items() for caller in seen.callers(m)})
    edits: list[Edit] = list(now)
    for edit in attributes:
        pins = _pinned(seen, edit) if literal(edit.module) else None
        if pins is not None:
            places[edit.module] = pins | places.get(edit.module, {})
            edits.append(edit)
    edits += [_edit(seen, module, found) for module, found in places.items() if found]
    return Rewriting(tuple(edits), {})


def first_names(model: nn.Module) -> dict[str, str]:
    """Return for every name that a module has the first of its names."""
    first: dict[nn.Module, str] = {}
    return {path: first.setdefault(module, path) for path, module in model.named_modules(remove_duplicate=False)}


def _attributes(model: nn.Module, seen: Seen) -> list[SetAttribute]:
    """Return the attributes that arguments which change are read from, where all say the same."""
    reader = Reader(seen.evidence, {number: e.record for number, e in seen.evidence.items()})
    found: dict[tuple[str, str], dict[int | None, set[tuple[int, int]]]] = {}
    for number, at in seen.evidence.items():
        for (place, index), (old, new) in seen.wanted.changed.get(number, {}).items():
            part = at.watch.code.source.expressions[place]
            for attribute, element in _read_from(reader, at, part, index, old):
                elements = found.setdefault((at.watch.module, attribute), {})
                elements.setdefault(element, set()).add((old, new))
    edits = []
    for (module, attribute), elements in found.items():
        old = plain(vars(model.get_submodule(module)).get(attribute))
        settled = {i: next(iter(pairs)) for i, pairs in elements.items() if len(pairs) == 1}
        if old is None or len(settled) < len(elements) or attribute.startswith("_"):
            continue
        if isinstance(old, tuple) and None not in settled:
            new = tuple(settled[i][1] if i in settled else n for i, n in enumerate(old))
            edits.append(SetAttribute(module, attribute, old, new))
        elif settled.keys() == {None} and settled[None][0] == old:
            edits.append(SetAttribute(module, attribute, old, settled[None][1]))
    return edits


def _read_from(
    reader: Reader, at: Evidence, part: ast.expr, index: int | None, own: int, depth: int = 0
) -> Iterator[tuple[str, int | None]]:
    """Yield the attributes, and elements of them, that an argument is read from and nothing else."""
    match part:
        case ast.Attribute() if at.watch.code.own(part):
            yield at.watch.code.own(part), index
        case ast.Subscript(ast.Attribute() as value, ast.Constant(int() as element)) if index is None and element >= 0:
            yield from _read_from(reader, at, value, element, own, depth + 1)
        case ast.Tuple(elements) | ast.List(elements) if (
            index is not None and not any(isinstance(e, ast.Starred) for e in elements)
        ):
            yield from _read_from(reader, at, elements[index], None, own, depth + 1)
        case ast.Name(name) if depth < 8:
            for where, value, element in reader.definitions(at, name, index, own):
                yield from _read_from(reader, where, value, element, own, depth + 1)


def _run(model: nn.Module, prediction: Prediction, plan: Plan, seen: Seen) -> dict[int, Record]:
    """Run the smaller model with the right arguments for its calls, and return what they would have been."""
    smaller = apply(model, plan)
    watching = [e.watch for e in seen.evidence.values()]
    for watch in watching:
        watch.record = Record(seen.wanted.values.get(watch.number, {}))
    install(smaller, [w for w in watching if "forward" not in vars(smaller.get_submodule(w.module))])
    try:
        dry(smaller, *prediction.graph.program.exported.example_inputs)
    except Exception as error:  # the model's own code runs here
        raise Astray(f"{type(error).__name__}: {str(error).strip()[:300]}", _place(error, seen)) from error
    return {watch.number: watch.record for watch in watching}


def _place(error: Exception, seen: Seen) -> str:
    """Return the module whose watched code was running innermost, or of the first where none was."""
    trace, module = error.__traceback__, next(iter(seen.modules), "")
    while trace is not None:
        match = _FILE.search(trace.tb_frame.f_code.co_filename)
        if match:
            module = seen.evidence[int(match[1])].watch.module
        trace = trace.tb_next
    return module


def _pinned(seen: Seen, edit: SetAttribute) -> Places | None:
    """Return what makes a module's code see an attribute as it was; None if it reads it where no number can stand."""
    pins: Places = {}
    for at in seen.of(edit.module):
        source = at.watch.code.source
        for number, node in enumerate(source.expressions):
            if at.watch.code.own(node) == edit.attribute:
                if number not in source.sizes or type(edit.old) is not int:
                    return None
                pins[at.watch.number, number] = edit.old
    return pins


def _edit(seen: Seen, module: str, places: Places) -> RewriteCode:
    literals: dict[Path, list[Literal]] = {}
    of = {e.watch.code.path: e for e in seen.of(module)}
    for at in of.values():
        source = at.watch.code.source
        own = {place: new for (number, place), new in places.items() if number == at.watch.number}
        if own and not at.watch.code.path[-1] == "":
            inside = {id(n) for place in own for n in ast.walk(source.expressions[place]) if n is not source.expressions[place]}
            literals[at.watch.code.path] = [
                Literal(place, _dense(at, source.expressions[place], new), new)
                for place, new in sorted(own.items())
                if id(source.expressions[place]) not in inside
            ]
    for at in of.values():
        source = at.watch.code.source
        native = [
            Literal(i, 1, 0) for i, n in enumerate(source.expressions) if i in source.sizes and ast.unparse(n) == _NATIVE
        ]
        if native:
            literals.setdefault(at.watch.code.path, []).extend(native)
    for path in list(literals):
        for i in range(1, len(path)):
            literals.setdefault(path[:i], [])
    return RewriteCode(
        module,
        tuple(Function(path, of[path].watch.code.source.digest, tuple(own)) for path, own in sorted(literals.items())),
    )


def _dense(at: Evidence, part: ast.expr, new: int) -> int:
    value: Any = worth(at.value(part))
    return value if type(value) is int else new

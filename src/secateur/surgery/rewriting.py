"""The edits of a model's code: its numbers where they repeat sizes, found by watching it run."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from secateur.ground.errors import SurgeryError

from .apply import apply
from .attributes import attributes, pinned
from .callees import Path
from .dry import dry
from .plan import Edit, Function, Literal, Plan, RewriteCode
from .prediction import Prediction
from .seen import Seen
from .settle import Places, Reader
from .wanted import Evidence
from .watch import Record, install
from .worth import worth

__all__ = ["AstrayError", "Rewriting", "rewriting"]

_FILE = re.compile(r"secateur-watch-(\d+)$")
_NATIVE = "torch.backends.mha.get_fastpath_enabled()"
"""Asks whether one native call may do what the code does: it reads sizes from other places."""


class AstrayError(SurgeryError):
    """The code of a module cannot run in the smaller model, even with the right arguments for all its calls.

    ``module`` is its path; None if no code was running that is watched.
    """

    def __init__(self, message: str, module: str | None) -> None:
        super().__init__(message)
        self.module = module


@dataclass(frozen=True)
class Rewriting:
    """Edits of code and of the attributes that it reads, and the modules whose code cannot be edited: why."""

    edits: tuple[Edit, ...]  # nothing where some failed
    failed: Mapping[str, str]


def rewriting(
    model: nn.Module, prediction: Prediction, plan: Plan, seen: Seen, literal: Callable[[str], bool]
) -> Rewriting:
    """Return what makes the code of the modules that were seen right in the model that a plan leaves.

    Attributes that hold sizes are set, and where an argument of a call is still not what it has to be, its expression
    becomes a number. In modules that are `literal` the code is to see its attributes as they were: there numbers do
    it all, and take the place of attributes that are set for others to read.

    Raises:
        AstrayError: the code of a module runs into an error with these attributes.
    """
    settings = attributes(model, seen)
    now = [edit for edit in settings if not literal(edit.module)]
    records = _run(model, prediction, replace(plan, edits=(*plan.edits, *now)), seen)
    places, failed = _placed(seen, records)
    if failed:
        return Rewriting((), {caller: why for m, why in failed.items() for caller in seen.callers(m)})
    edits: list[Edit] = list(now)
    for edit in settings:
        pins = pinned(seen, edit) if literal(edit.module) else None
        if pins is not None:
            places[edit.module] = pins | places.get(edit.module, {})
            edits.append(edit)
    edits += [_edit(seen, module, found) for module, found in places.items() if found]
    return Rewriting(tuple(edits), {})


def _placed(seen: Seen, records: Mapping[int, Record]) -> tuple[dict[str, Places], dict[str, str]]:
    """Return by module the integers that make all arguments right, and of other modules why there are none."""
    sizes = {pair for changed in seen.wanted.changed.values() for pair in changed.values()}
    reader = Reader(seen.evidence, records, frozenset(sizes | {(new, old) for old, new in sizes}))
    failed = {module: why for module, why in seen.wanted.failed.items() if seen.of(module)}
    places: dict[str, Places] = {}
    for number, record in records.items():
        at = seen.evidence[number]
        known = places.setdefault(at.watch.module, {})
        for (place, index), pairs in record.wrong.items():
            part = at.watch.code.source.expressions[place]
            own, want = next(iter(pairs))
            found = reader.place(at, part, index, own, want) if len(pairs) == 1 else None
            if found is None or any(known.get(key, new) != new for key, new in found.items()):
                failed.setdefault(
                    at.watch.module, f"no number in {ast.unparse(part)[:80]} can be changed alone"
                )
            else:
                known |= found
    return places, failed


def _run(model: nn.Module, prediction: Prediction, plan: Plan, seen: Seen) -> dict[int, Record]:
    """Run the smaller model with the right arguments for its calls, and return what they would have been."""
    smaller = apply(model, plan)
    modules = dict(smaller.named_modules(remove_duplicate=False))

    def there(module: str) -> bool:
        """Whether it still is what it was in the dense model, and runs its own code."""
        own = modules.get(module)
        return type(own) is type(model.get_submodule(module)) and "forward" not in vars(own)

    watching = [e.watch for e in seen.evidence.values()]
    records = install(smaller, [w for w in watching if there(w.module)], seen.wanted.values)
    try:
        dry(smaller, *prediction.graph.program.example)
    except Exception as error:  # the model's own code runs here
        raise AstrayError(
            f"{type(error).__name__}: {str(error).strip()[:300]}", _place(error, seen)
        ) from error
    return {watch.number: records.get(watch.number, Record()) for watch in watching}


def _place(error: Exception, seen: Seen) -> str | None:
    """Return the module whose watched code was running innermost."""
    trace, module = error.__traceback__, None
    while trace is not None:
        match = _FILE.search(trace.tb_frame.f_code.co_filename)
        if match:
            module = seen.evidence[int(match[1])].watch.module
        trace = trace.tb_next
    return module


def _edit(seen: Seen, module: str, places: Places) -> RewriteCode:
    """Return the edit of one module's code, with the functions through which those with new numbers are reached."""
    of = {e.watch.code.path: e for e in seen.of(module)}
    literals: dict[Path, tuple[Literal, ...]] = {}
    for path, at in of.items():
        own = {place: new for (number, place), new in places.items() if number == at.watch.number}
        found = (*_literals(at, own), *_slow(at))
        if found:
            literals |= {path[:i]: literals.get(path[:i], ()) for i in range(1, len(path))} | {path: found}
    functions = (
        Function(path, of[path].watch.code.source.digest, own) for path, own in sorted(literals.items())
    )
    return RewriteCode(module, tuple(functions))


def _literals(at: Evidence, news: Mapping[int, int]) -> tuple[Literal, ...]:
    expressions = at.watch.code.source.expressions
    inside = {n for place in news for n in ast.walk(expressions[place]) if n is not expressions[place]}
    return tuple(
        Literal(place, _dense(at, expressions[place], new), new)
        for place, new in sorted(news.items())
        if expressions[place] not in inside
    )


def _slow(at: Evidence) -> tuple[Literal, ...]:
    """Let code that is rewritten never leave its work to a native call."""
    source = at.watch.code.source
    asked = (i for i, n in enumerate(source.expressions) if i in source.sizes and ast.unparse(n) == _NATIVE)
    return tuple(Literal(i, 1, 0) for i in asked)


def _dense(at: Evidence, part: ast.expr, new: int) -> int:
    value: Any = worth(at.value(part))
    return value if type(value) is int else new

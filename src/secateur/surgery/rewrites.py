"""Find the modules whose code repeats sizes as numbers, and the edits that replace their forward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from secateur.graph.program import Node, Program, Ref
from secateur.ground.errors import SurgeryError

from .arguments import SIZES
from .plan import Resize, Retrace
from .prediction import Prediction
from .region import Region, exports, find_region

__all__ = ["changes", "owners", "retraces", "same_calls"]


def owners(model: nn.Module, prediction: Prediction) -> dict[str, list[Node]]:
    """Return the modules that make calls with sizes that change, and these calls; not layers, which hold them."""
    found: dict[str, list[Node]] = {}
    for node in prediction.graph.program.nodes:
        if isinstance(model.get_submodule(node.module), _ConvNd | nn.GroupNorm):
            continue
        if next(changes(node, prediction), None):
            found.setdefault(node.module, []).append(node)
    return found


def retraces(model: nn.Module, prediction: Prediction, modules: Iterable[str]) -> tuple[Retrace, ...]:
    """Return an edit for each of the modules, or for one that contains it where it cannot be traced alone.

    Raises:
        SurgeryError: none of the modules around it can be traced; the message says why.
    """
    program = prediction.graph.program
    if not program.dynamic:
        raise SurgeryError(
            "the code repeats a size as a number, and the batch size with it: "
            "make it free of the batch size of the example"
        )
    wanted = _outermost(modules)
    while True:
        again, calls = _again(model, program, tuple(wanted))
        regions: dict[str, Region] = {}
        failed: dict[str, SurgeryError] = {}
        for path in wanted:
            try:
                regions[path] = find_region(again, path)
            except SurgeryError as error:
                failed[path] = error
        if "" in failed:
            raise failed[""]
        if not failed:
            return tuple(_retrace(region, calls, prediction) for region in regions.values())
        wanted = _outermost([*regions, *(path.rpartition(".")[0] for path in failed)])


def _again(
    model: nn.Module, program: Program, modules: tuple[str, ...]
) -> tuple[Program, Mapping[str, Node]]:
    """Return another export of the model, with what these modules take and return, and its calls by name."""
    failed: SurgeryError | None = None
    args, kwargs = program.example
    for again in exports(model, args, kwargs, modules, program.batch_dims):
        try:
            return again, same_calls(program, again)
        except SurgeryError as error:
            failed = error
    assert failed is not None
    raise failed


def _outermost(modules: Iterable[str]) -> list[str]:
    paths = list(dict.fromkeys(modules))
    return [p for p in paths if not any(q != p and (not q or p.startswith(f"{q}.")) for q in paths)]


def same_calls(first: Program, again: Program) -> Mapping[str, Node]:
    """Match the calls of two exports of one model: by name in the second, the node of the first."""
    old, new = (
        [n for n in p.nodes if n.hint is None and n.op not in ("placeholder", "output")]
        for p in (first, again)
    )
    if [(n.op, n.shape) for n in old] != [(n.op, n.shape) for n in new]:
        raise SurgeryError("a second export of the model makes other calls than the first")
    return {b.name: a for a, b in zip(old, new, strict=True)}


def _retrace(region: Region, calls: Mapping[str, Node], prediction: Prediction) -> Retrace:
    sizes = []
    for i, fx in enumerate(region.nodes):
        node = calls.get(fx.name)
        if node is None:
            raise SurgeryError(f"{region.module} makes calls inside of a context ({fx.name})")
        sizes += [Resize(i, place, old, new) for place, old, new in changes(node, prediction)]
    return Retrace(region.module, region.digest, tuple(sizes))


def changes(node: Node, prediction: Prediction) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """Yield the place, old and new value of every size among the arguments of a call that changes."""
    yield from _differences(node.args, prediction.arguments(node), ())
    at = SIZES.get(node.op)
    if at is not None and at < len(node.args) and node.name in prediction.after:
        # A multiple of the batch size: heads that were folded into the batch.
        old, new = prediction.before[node.name], prediction.after[node.name]
        sizes = node.args[at] if isinstance(node.args[at], tuple) else ()
        for i, (size, a, b) in enumerate(zip(sizes, old, new, strict=False)):
            if isinstance(size, Ref) and a != b:
                yield (at, i), a, b


def _differences(old: Any, new: Any, place: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], int, int]]:
    if isinstance(old, tuple) and isinstance(new, tuple):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from _differences(a, b, (*place, i))
    elif type(old) is int and type(new) is int and old != new:
        yield place, old, new

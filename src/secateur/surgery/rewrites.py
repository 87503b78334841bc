"""Find the modules whose code repeats sizes as numbers, and the edits that replace their forward."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn
from torch.nn.modules.conv import _ConvNd

from secateur.graph.program import Node, Program
from secateur.ground.errors import SurgeryError

from .plan import Resize, Retrace
from .prediction import Prediction
from .region import Region, find_region, with_export

__all__ = ["owners", "retraces", "same_calls"]


def owners(model: nn.Module, prediction: Prediction) -> tuple[str, ...]:
    """Return the modules that make calls with sizes that change; not layers, which hold them."""
    return tuple(
        dict.fromkeys(
            node.module
            for node in prediction.graph.program.nodes
            if not isinstance(model.get_submodule(node.module), _ConvNd | nn.GroupNorm)
            and next(prediction.changes(node), None)
        )
    )


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
    args, kwargs = program.example
    wanted = _outermost(modules)
    while True:
        again, calls = with_export(
            model, args, kwargs, wanted, lambda p: (p, same_calls(program, p)), program.batch_dims
        )
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
        sizes += [Resize(i, place, old, new) for place, old, new in prediction.changes(node)]
    return Retrace(region.module, region.digest, tuple(sizes))

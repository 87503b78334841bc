"""A graph as text and as plain data: its groups, and what is frozen and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .graph import Graph
    from .groups import Group, Site

__all__ = ["graph_to_json", "to_text"]

_WIDTHS = (28, 10, 5, 6, 23, 23, 9)
_ROW = "{:28} {:10} {:>5} {:>6} {:23} {:23} {:9}"


def to_text(graph: Graph) -> str:
    """Return a table of at most 110 columns: one line a group, then the frozen parameters by reason."""
    costs = graph.macs()
    total = max(sum(costs.values()), 1)
    head = ("group", "kind", "units", "MACs", "producers", "consumers", "removable")
    lines = [_line(head), _line(["-" * w for w in _WIDTHS])]
    modules = {layer.node: layer.module or layer.weight for layer in graph.layers}
    for group in graph.groups:
        share = sum(costs.get(node, 0) for node in _touched(graph, group)) / total
        ends = _names(modules, group.producers), _names(modules, group.consumers)
        removable = "yes" if group.removable else ""
        lines.append(_line((group.id, group.kind, str(group.size), f"{share:.1%}", *ends, removable)))
    reach = {node for group in graph.groups for node in _touched(graph, group)}
    share = sum(costs.get(node, 0) for node in reach) / total
    program = graph.program
    batch = "batch size free" if program.dynamic else f"batch size fixed at {program.batch}"
    if all(d is None for d in program.batch_dims):
        batch = "no batch, a call is one sample"
    units = sum(g.size for g in graph.groups)
    lines += [
        "",
        f"{len(graph.groups)} groups with {units} units, in layers with {share:.1%} of {total:,} MACs",
        f"{graph.params():,} parameters; {batch}",
    ]
    return "\n".join([*lines, *_frozen(graph)])


def graph_to_json(graph: Graph) -> dict[str, Any]:
    """Return groups, totals and what is frozen and why."""
    modules = {layer.node: layer.module or layer.weight for layer in graph.layers}
    return {
        "parameters": graph.params(),
        "macs": graph.total_macs(),  # of one sample
        "groups": [
            {
                "id": group.id,
                "kind": group.kind,
                "units": group.size,
                "removable": group.removable,
                "producers": [modules[site.node] for site in group.producers],
                "consumers": [modules[site.node] for site in group.consumers],
            }
            for group in graph.groups
        ],
        "frozen": [asdict(entry) for entry in graph.frozen],
    }


def _touched(graph: Graph, group: Group) -> set[str]:
    owned = {s.parameter for s in group.slices}
    return {layer.node for layer in graph.layers if layer.weight in owned}


def _names(modules: dict[str, str], sites: Sequence[Site]) -> str:
    names = list(dict.fromkeys(modules[s.node] for s in sites))
    if len(names) > 1:
        return f"{_clip(names[0], 17)} +{len(names) - 1}"
    return names[0] if names else "-"


def _line(cells: Iterable[str]) -> str:
    return _ROW.format(*map(_clip, cells, _WIDTHS)).rstrip()


def _clip(text: str, width: int) -> str:
    """Shorten from the left: the end of a module path says more."""
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]


def _frozen(graph: Graph) -> list[str]:
    by_reason: dict[str, list[str]] = defaultdict(list)
    where: dict[str, set[str]] = defaultdict(set)
    for entry in graph.frozen:
        place = f"{entry.parameter}[{entry.dim}]"
        by_reason[entry.reason].append(place)
        if entry.source:
            where[entry.reason].add(_clip(entry.source, 60))
    if not by_reason:
        return []
    lines = ["", "frozen"]
    for reason, places in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        lines.append(_cut(f"  {reason} ({len(places)})"))
        shown = ", ".join(places[:3]) + (f", and {len(places) - 3} more" if len(places) > 3 else "")
        lines.append(_cut(f"    {shown}"))
        sources = sorted(where[reason])
        if sources:
            more = f", and {len(sources) - 1} more lines" if len(sources) > 1 else ""
            lines.append(_cut(f"    at {sources[0]}{more}"))
    return lines


def _cut(text: str) -> str:
    return text if len(text) <= 109 else text[:108] + "…"

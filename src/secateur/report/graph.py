"""A traced model as plain data, for ``secateur inspect --json``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from secateur.graph import Graph

__all__ = ["graph_to_json"]


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

"""The calls of a traced program in one row, those inside of autocast and gradient switches among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

__all__ = ["flat"]

_SWITCHES = {"wrap_with_autocast", "wrap_with_set_grad_enabled"}
"""Calls of a sub-graph in a mode."""


def flat(module: fx.GraphModule) -> dict[fx.Node, str]:
    """Return the calls in order, and their names: behind that of the switch that they are in.

    What the switch says is left out: who runs these calls runs them in the type of the inputs.
    """
    names: dict[fx.Node, str] = {}
    _copy(fx.Graph(), module, "", "", {}, names)
    return names


def _copy(
    graph: fx.Graph,
    module: fx.GraphModule,
    path: str,
    prefix: str,
    given: Mapping[fx.Node, Any],
    names: dict[fx.Node, str],
) -> Any:
    """Copy the calls of a module at `path` behind those that are there; return its results."""
    known = dict(given)
    for node in module.graph.nodes:
        target = getattr(node.target, "__name__", "")
        if node in known:
            continue
        if target in _SWITCHES:
            at = next(i for i, a in enumerate(node.args) if isinstance(a, fx.Node) and a.op == "get_attr")
            inner = str(node.args[at].target)
            part = getattr(module, inner)
            holes = [n for n in part.graph.nodes if n.op == "placeholder"]
            handed = fx.map_arg(node.args[at + 1 :], known.__getitem__)
            inside = dict(zip(holes, handed, strict=True))
            known[node] = _copy(graph, part, f"{path}{inner}.", f"{prefix}{node.name}/", inside, names)
        elif target == "getitem" and isinstance(known[node.args[0]], tuple | list):
            known[node] = known[node.args[0]][node.args[1]]
        elif node.op == "output" and prefix:
            return fx.map_arg(node.args[0], known.__getitem__)
        else:
            made = graph.node_copy(node, known.__getitem__)
            if node.op == "get_attr":
                made.target = f"{path}{node.target}"
            known[node] = made
            names[made] = prefix + node.name
    return None

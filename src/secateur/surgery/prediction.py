"""Everything that a selection predicts about the calls of the smaller model, asked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from secateur.graph.graph import Graph
from secateur.graph.groups import Kept
from secateur.graph.program import Node, Shape

from .arguments import predicted_arguments

__all__ = ["Prediction", "predict"]


@dataclass(frozen=True)
class Prediction:
    """Shapes and arguments of every call after a selection."""

    graph: Graph
    kept: Kept
    before: Mapping[str, Shape]
    after: Mapping[str, Shape]
    parameters: Mapping[str, Shape]  # by canonical name

    def arguments(self, node: Node) -> tuple[Any, ...]:
        """Return the positional arguments that a call will have."""
        return predicted_arguments(node, self.before, self.after, self._survivors, self._outputs(node))

    def _survivors(self, value: str, dim: int) -> tuple[int, ...]:
        return tuple(self.graph.surviving_along(value, dim, self.kept).tolist())

    def _outputs(self, node: Node) -> tuple[Shape, ...]:
        """Return the shapes of all results of a call with several, or nothing if some are not used."""
        if not isinstance(node.shape, tuple) or all(isinstance(n, int) for n in node.shape):
            return ()
        found = {u.args[1]: self.after.get(u.name) for u in self.graph.users(node.name) if u.op == "getitem"}
        shapes = tuple(s for i in range(len(node.shape)) if (s := found.get(i)) is not None)
        return shapes if len(shapes) == len(node.shape) else ()


def predict(graph: Graph, kept: Kept) -> Prediction:
    """Return what a selection predicts.

    Raises:
        SurgeryError: the selection names a unit that does not exist or leaves a ragged value.
    """
    return Prediction(graph, kept, graph.sizes({}), graph.sizes(kept), graph.shapes(kept))

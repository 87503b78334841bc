"""What is connected to what: tracing, dimension analysis, groups, predicted shapes and costs."""

from secateur.graph.branch import Branch
from secateur.graph.graph import Graph
from secateur.graph.groups import Frozen, Group, Kept, Kind, Segment, Site, Slice
from secateur.graph.layers import Layer
from secateur.graph.program import Node, Program, Ref
from secateur.graph.trace import trace

__all__ = [
    "Branch",
    "Frozen",
    "Graph",
    "Group",
    "Kept",
    "Kind",
    "Layer",
    "Node",
    "Program",
    "Ref",
    "Segment",
    "Site",
    "Slice",
    "trace",
]

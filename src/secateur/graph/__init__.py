"""What is connected to what: tracing, dimension analysis, groups, predicted shapes and costs."""

from .branch import Branch
from .graph import Graph
from .groups import Frozen, Group, Kept, Kind, Segment, Site, Slice
from .layers import Layer
from .program import Node, Program, Ref
from .trace import trace

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

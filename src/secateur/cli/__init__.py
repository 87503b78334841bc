"""The command line. Each command imports what it needs, so that ``--help`` is quick."""

from .app import app, command, main
from .files import export, pack, unpack
from .look import inspect, measure, report
from .recipes import recipes, schema
from .run import demo, prune

__all__ = ["app", "main"]

for function in (demo, prune, recipes, schema, inspect, measure, report, pack, unpack, export):
    command(function)

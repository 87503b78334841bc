"""The command line. Each command imports what it needs, so that ``--help`` is quick."""

from .app import app, main
from .files import export, pack, unpack
from .look import inspect, measure, report
from .run import demo, prune

__all__ = ["app", "main"]

for command in (demo, prune, inspect, measure, report, pack, unpack, export):
    app.command()(command)

"""The rooms of the house and the arrows between them, from imports alone: python tools/rooms.py [--arrows]

A room is a folder of src/secateur, or one of the three modules beside them. Each may import those before it in `ORDER`,
and none behind it; imports inside of functions count, those for type checkers count as well.
"""

from __future__ import annotations

import argparse
import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "secateur"
ORDER = (
    "ground", "data", "zoo", "graph", "blocks", "statistics", "measure", "surgery", "training", "selection",
    "recovery", "quantisation", "artefact", "report", "runtime", "result", "export", "case", "methods",
    "integrations", "prune", "recipes", "cli",
)  # fmt: skip
# Modules that may stand beside the rooms; python -m secateur looks for __main__ there, and nowhere else.
TOP = frozenset({"__init__", "__main__", "prune", "case", "result"})
ENTRIES = frozenset({"__init__", "__main__"})  # where users come in, so that they may import any room

Arrows = dict[tuple[str, str], list[str]]
"""From room, to room: the places, ``file:line``."""


def room_of(path: Path) -> str:
    """Return the room of a file of the package."""
    inner = path.relative_to(SOURCE)
    return inner.parts[0] if len(inner.parts) > 1 else inner.stem


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the modules of the package that a file imports, below the package's name, with the line."""
    package = ["secateur", *path.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            found = [f"{whole}.{alias.name}" for alias in node.names] if whole == "secateur" else [whole]
        else:
            continue
        yield from (
            (name.removeprefix("secateur."), node.lineno) for name in found if name.startswith("secateur.")
        )


def arrows() -> Arrows:
    """Return which room imports which, and where."""
    found: Arrows = defaultdict(list)
    for path in sorted(SOURCE.rglob("*.py")):
        room = room_of(path)
        if room in ENTRIES:
            continue
        for name, line in imports(path):
            other = name.partition(".")[0]
            if other != room:
                found[room, other].append(f"{path.relative_to(SOURCE)}:{line}")
    return dict(found)


def faults(found: Arrows) -> list[str]:
    """Return what breaks the order, a line each."""
    rooms = {room_of(path) for path in SOURCE.rglob("*.py")}
    lines = [
        f"{room} stands beside the rooms"
        for room in sorted(r for r in rooms if (SOURCE / f"{r}.py").is_file() and r not in TOP)
    ]
    lines += [f"{room} is not in the order" for room in sorted(rooms - set(ORDER) - ENTRIES)]
    place = {room: n for n, room in enumerate(ORDER)}
    for (room, other), where in sorted(found.items()):
        if place.get(other, -1) >= place.get(room, -1):
            lines.append(f"{room} imports {other}, which is not below it: {', '.join(where[:4])}")
    return lines


def floors(found: Arrows) -> dict[str, int]:
    """Return how high each room stands: one above the highest room that it imports."""
    below = defaultdict(set)
    for room, other in found:
        below[room].add(other)
    heights: dict[str, int] = {}
    for room in ORDER:
        heights[room] = 1 + max((heights.get(other, 0) for other in below[room]), default=0)
    return heights


def main() -> int:
    """Print the house; the exit status says whether its order holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--arrows", action="store_true", help="name each arrow, and how many imports it stands for"
    )
    options = parser.parse_args()
    found = arrows()
    heights, lines = floors(found), faults(found)
    for floor in sorted(set(heights.values()), reverse=True):
        print(f"{floor:3}  {'  '.join(room for room in ORDER if heights[room] == floor)}")
    print(f"\n{len(ORDER)} rooms, {max(heights.values())} floors, {len(found)} arrows, {len(lines)} faults")
    if options.arrows:
        for (room, other), where in sorted(found.items()):
            print(f"  {room} -> {other} ({len(where)})")
    for line in lines:
        print(f"  {line}")
    return bool(lines)


if __name__ == "__main__":
    raise SystemExit(main())

"""No tensor is made without a device where activations or weights are: what is made of nothing is on the processor."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import secateur

ROOMS = ("statistics", "recovery", "methods", "surgery", "training")
MAKERS = {"zeros", "ones", "empty", "full", "arange", "eye", "tensor", "rand", "randn", "linspace"}
# Plain data of plans, patterns and orders, counts and random numbers, which live on the processor.
ON_THE_PROCESSOR = Path(__file__).with_name("on_the_processor.txt")


def makers(path: Path) -> Iterator[str]:
    """Yield the calls of a file that make a tensor and name no device."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name("torch"), attr=name)) if name in MAKERS:
                if not any(k.arg == "device" for k in node.keywords):
                    yield ast.unparse(node)


def test_what_names_no_device_belongs_on_the_processor() -> None:
    root = Path(secateur.__file__).parent
    found = {
        f"{path.relative_to(root)}: {call}"
        for room in ROOMS
        for path in (root / room).rglob("*.py")
        for call in makers(path)
    }
    allowed = set(ON_THE_PROCESSOR.read_text().splitlines())
    assert found <= allowed, "give it the device of what it meets, or add it to on_the_processor.txt"
    assert allowed <= found, "on_the_processor.txt names what is no longer there"

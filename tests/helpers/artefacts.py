"""A small pruned network, and artefacts changed by somebody who knows the format."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.artefact.manifest import CARD, CONFIGS, FILES, MANIFEST, MODEL, PAGE, Entry, entries_to_json
from secateur.surgery import fingerprint
from secateur.surgery.plan import Plan, RemoveBranch, SliceTensor

RECIPE = {"model": "net", "budget": {"macs": 0.5}}
REPORT = {"accuracy": [0.9, 0.89]}


class Net(nn.Module):
    def __init__(self, hidden: int = 5) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, hidden, 3)
        self.b = nn.Conv2d(3, hidden, 3)
        self.b.weight = self.a.weight
        self.norm = nn.BatchNorm2d(hidden)
        self.branch = nn.Conv2d(hidden, hidden, 1)
        self.register_buffer("gain", torch.rand(hidden), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.a(x) + self.b(x)) * self.gain[:, None, None]
        return x + self.branch(x)


class Other(Net):
    pass


def plan(model: nn.Module) -> Plan:
    kept = (0, 2, 4)
    names = ("a.bias", "b.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "gain")
    edits = (
        SliceTensor(("a.weight", "b.weight"), 0, kept, 5),
        *(SliceTensor((name,), 0, kept, 5) for name in names),
        RemoveBranch(("branch",), ()),
    )
    return Plan({"a": kept}, edits, fingerprint(model), {"branch.value": torch.randn(1, 3, 1, 1)})


def resign(folder: Path) -> None:
    """Make the manifest of a changed folder right again, and what its plan says about the tensors."""
    plan = folder / "plan.json"
    try:
        data = json.loads(plan.read_text())
        tensors = (folder / MODEL).read_bytes()
        data |= {"size": len(tensors), "sha256": hashlib.sha256(tensors).hexdigest()}
        plan.write_text(json.dumps(data))
    except (OSError, ValueError, TypeError):
        pass  # then it is refused for that
    entries = {}
    for name in (*FILES, PAGE, CARD, *CONFIGS):
        if (folder / name).is_file():
            content = (folder / name).read_bytes()
            entries[name] = Entry(len(content), hashlib.sha256(content).hexdigest())
    (folder / MANIFEST).write_text(json.dumps(entries_to_json(entries)))


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads((folder / "plan.json").read_text())
    change(data)
    (folder / "plan.json").write_text(json.dumps(data))
    resign(folder)

"""The files of an artefact, their sizes and hashes, and what its plan.json says besides the plan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from secateur.ground import checked
from secateur.ground.errors import ArtefactError
from secateur.surgery.plan import Plan

__all__ = [
    "CARD",
    "CONFIGS",
    "FILES",
    "MANIFEST",
    "MODEL",
    "PAGE",
    "PLAN",
    "RECIPE",
    "REPORT",
    "VERSION",
    "Artefact",
    "Entry",
    "Manifest",
    "entries_from_json",
    "entries_to_json",
]

VERSION = 1
MODEL = "model.safetensors"
PLAN = "plan.json"
RECIPE = "recipe.yaml"
REPORT = "report.json"
FILES = (MODEL, PLAN, RECIPE, REPORT)
PAGE = "report.html"  # to look at; never read
CARD = "README.md"  # the model card; never read
MANIFEST = "manifest.json"  # size and hash of every other file
CONFIGS = ("config.json", "generation_config.json")  # of a Hugging Face model, see secateur.export

FORMAT = "secateur-artefact"


@dataclass(frozen=True)
class Entry:
    """What a file has to be."""

    size: int  # in bytes
    sha256: str  # of the content, in hexadecimal digits


def entries_to_json(entries: Mapping[str, Entry]) -> dict[str, Any]:
    """Return the content of manifest.json."""
    files = {name: {"size": e.size, "sha256": e.sha256} for name, e in entries.items()}
    return {"format": f"{FORMAT}-files", "version": VERSION, "files": files}


def entries_from_json(data: object) -> dict[str, Entry]:
    """Return what `entries_to_json` was given.

    Raises:
        ArtefactError: an entry is missing, unknown or of the wrong kind, or a name is not of an artefact's file.
    """
    found = checked.keys(data, MANIFEST, "format", "version", "files")
    if found["format"] != f"{FORMAT}-files" or found["version"] is True or found["version"] != VERSION:
        raise ArtefactError(f"{MANIFEST} must have the format {FORMAT}-files, version {VERSION}")
    entries = {}
    for name, value in checked.mapping(found["files"], MANIFEST).items():
        if name not in (*FILES, PAGE, CARD, *CONFIGS):
            raise ArtefactError(f"{MANIFEST} names {name!r:.60}, which is no file of an artefact")
        entry = checked.keys(value, f"{MANIFEST}: {name}", "size", "sha256")
        size = checked.integer(entry["size"], f"{MANIFEST}: size of {name}", 0, 2**62)
        entries[name] = Entry(size, _sha256(entry["sha256"], f"{MANIFEST}: {name}"))
    return entries


def _sha256(data: object, where: str) -> str:
    if not isinstance(data, str) or not re.fullmatch("[0-9a-f]{64}", data):
        raise ArtefactError(f"{where}: sha256 must be 64 hexadecimal digits")
    return data


@dataclass(frozen=True)
class Manifest:
    """How the tensors of the file belong to the model.

    ``tied`` maps each further name of a shared tensor to the name under which it is stored.
    """

    training: bool  # the model's training flag
    tied: Mapping[str, str]
    channels_last: frozenset[str]  # stored names of tensors whose memory layout is channels last
    size: int  # of the tensor file, in bytes
    sha256: str  # of the tensor file

    def to_json(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Return the content of plan.json."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "training": self.training,
            "tied": dict(sorted(self.tied.items())),
            "channels_last": sorted(self.channels_last),
            "size": self.size,
            "sha256": self.sha256,
            "plan": plan,
        }

    @staticmethod
    def from_json(data: object) -> tuple[Manifest, object]:
        """Return the manifest and the plan's own JSON, checked entry by entry.

        Raises:
            ArtefactError: not an artefact, a newer version, or an entry of the wrong kind.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ArtefactError(f"{PLAN} does not begin an artefact: it has no format {FORMAT!r}")
        version = data.get("version")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ArtefactError(f"{PLAN}: version must be a positive integer, not {version!r:.40}")
        if version > VERSION:
            raise ArtefactError(
                f"the artefact has format version {version}, this secateur reads up to {VERSION}: "
                "update secateur"
            )
        keys = ("format", "version", "training", "tied", "channels_last", "size", "sha256", "plan")
        checked.keys(data, PLAN, *keys)
        if not isinstance(data["training"], bool):
            raise ArtefactError(f"{PLAN}: training must be true or false")
        tied = checked.mapping(data["tied"], f"{PLAN}: tied")
        last = checked.listed(data["channels_last"], f"{PLAN}: channels_last", checked.named)
        size = checked.integer(data["size"], f"{PLAN}: size", 0, 2**62)
        for name, stored in tied.items():
            checked.named(stored, f"{PLAN}: tied: {name!r:.60}")
        sha256 = _sha256(data["sha256"], PLAN)
        return Manifest(data["training"], tied, frozenset(last), size, sha256), data["plan"]


@dataclass(frozen=True)
class Artefact:
    """Everything that an artefact holds, read and checked."""

    plan: Plan
    manifest: Manifest
    tensors: Mapping[str, Tensor]  # by stored name
    recipe: Mapping[str, Any]
    report: Mapping[str, Any]

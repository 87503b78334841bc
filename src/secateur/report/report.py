"""The figures of one run: what was gained, what it cost, and where that was measured."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from secateur.measure.count import Size
from secateur.measure.environment import Environment
from secateur.measure.latency import Comparison

from .evidence import FrozenPart, LossCurve
from .sparsity import Sparsity
from .structure import Structured

__all__ = ["Accuracy", "Report"]


@dataclass(frozen=True)
class Accuracy:
    """Shares in 0..1 of the caller's own measure, where she gave one."""

    dense: float
    pruned: float | None = None  # before recovery
    recovered: float | None = None
    distilled: float | None = None  # by gradient steps without labels: no longer "without training"
    finetuned: float | None = None

    def steps(self) -> list[tuple[str, float]]:
        """Return what was measured, in order, with a name."""
        repaired = [self.recovered, self.distilled, self.finetuned] != [None, None, None]
        named = {
            "dense": self.dense,
            "pruned, before recovery" if repaired else "pruned, nothing repaired": self.pruned,
            "recovered": self.recovered,
            "distilled": self.distilled,
            "fine-tuned": self.finetuned,
        }
        return [(name, value) for name, value in named.items() if value is not None]


@dataclass(frozen=True)
class Report:
    """The measured result of a run. What was not measured is None, never estimated."""

    method: str
    budget: str
    before: Size
    after: Size
    max_masked_difference: float  # largest |masked - shrunk| over calibration outputs, before recovery
    seconds: Mapping[str, float]  # by phase
    environment: Environment
    seed: int
    latency: Comparison | None = None
    accuracy: Accuracy | None = None
    kept: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # group: (units kept, units before)
    model: str = ""  # what it is called
    curves: Mapping[str, LossCurve] = field(default_factory=dict)  # by group
    refused: Mapping[str, str] = field(default_factory=dict)  # group: why it was left whole
    frozen: tuple[FrozenPart, ...] = ()
    sparsity: Sparsity | None = None  # of methods that remove single weights
    structure: Structured | None = None  # of methods that make blocks zero or unify them
    recipe: Mapping[str, Any] = field(default_factory=dict, repr=False)  # how to run it again

    def to_json(self) -> dict[str, Any]:
        """Return plain data: what `report.json` holds. The recipe is not part of it: artefacts have `recipe.yaml`."""
        data = asdict(replace(self, recipe={}))
        del data["recipe"]
        data["kept"] = {name: list(pair) for name, pair in self.kept.items()}
        data["ratios"] = self.ratios()
        return data

    def ratios(self) -> dict[str, float | None]:
        """Return pruned / dense for parameters, MACs, bytes and latency."""
        pairs = {
            name: (getattr(self.before, name), getattr(self.after, name))
            for name in ("params", "macs", "bytes")
        }
        found: dict[str, float | None] = {name: b / a if a else None for name, (a, b) in pairs.items()}
        return found | {"latency": self.latency.ratio if self.latency else None}

    def to_html(self, path: str | PathLike[str]) -> Path:
        """Write the report as one self-contained HTML page, and return its path.

        Raises:
            ArtefactError: the file cannot be written.
        """
        from .page import page, write_page  # it imports this module

        return write_page(path, page({self.model: self}))

    def __rich__(self) -> Group:
        return Group(*self._parts())

    def __str__(self) -> str:
        buffer = io.StringIO()
        Console(file=buffer, width=100, no_color=True, highlight=False).print(self)
        return "\n".join(line.rstrip() for line in buffer.getvalue().strip("\n").splitlines())

    def _parts(self) -> list[Table | Text]:
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("")
        for name in ("dense", "pruned", "pruned / dense"):
            table.add_column(name, justify="right")
        macs = f"MACs, batch {self.latency.batch}" if self.latency else "MACs"
        for name, attribute in (("parameters", "params"), (macs, "macs"), ("bytes", "bytes")):
            a, b = getattr(self.before, attribute), getattr(self.after, attribute)
            table.add_row(name, f"{a:,}", f"{b:,}", f"{b / a:.3f}" if a else "-")
        if self.sparsity:
            s = self.sparsity
            for name, a, b in (
                ("connections", s.before, s.after),
                ("bytes, zipped", s.zip_before, s.zip_after),
            ):
                table.add_row(name, f"{a:,}", f"{b:,}", f"{b / a:.3f}" if a else "-")
        if self.structure:
            c = self.structure
            for name, share in (
                ("bits, counted, of the same shapes", c.stored_bits),
                ("multiplications, counted, of the same shapes", c.operations),
            ):
                table.add_row(name, "", "", f"{share:.3f}")
        if self.latency:
            t = self.latency
            table.add_row(
                "latency, ms", f"{t.dense.median_ms:.2f}", f"{t.pruned.median_ms:.2f}", f"{t.ratio:.3f}"
            )
        parts: list[Table | Text] = [Text(f"{self.method}, budget {self.budget}, seed {self.seed}"), table]
        if self.accuracy:
            parts.append(_accuracy_table(self.accuracy))
        return parts + [Text(line) for line in self._notes()]

    def _notes(self) -> list[str]:
        notes = []
        if self.latency:
            t = self.latency
            notes.append(
                f"Latency: medians of {t.rounds} interleaved runs, batch {t.batch}, {_count(t.threads, 'thread')}; "
                f"the middle half of the ratios lies in {t.ratio_low:.3f} to {t.ratio_high:.3f}."
            )
        if self.sparsity:
            notes.append("Connections that are zero make the zipped file smaller, not the network faster.")
        if self.structure:
            notes.append(
                "Counted bits and multiplications are what blocks need; only files and kernels that know blocks save "
                "them, torch itself does not."
            )
        notes.append(f"Masked and shrunk outputs differ by at most {self.max_masked_difference:.1e}.")
        if self.seconds:
            phases = ", ".join(f"{name} {value:.1f} s" for name, value in self.seconds.items())
            notes.append(f"Time: {phases}.")
        e = self.environment
        commit = f" ({e.commit})" if e.commit else ""
        notes.append(f"secateur {e.secateur}{commit}, torch {e.torch}, Python {e.python}, {e.cpu}.")
        return notes


def _accuracy_table(accuracy: Accuracy) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("accuracy", "", "against dense"):
        table.add_column(name, justify="left" if name == "accuracy" else "right")
    for name, value in accuracy.steps():
        change = "" if name == "dense" else f"{100 * (value - accuracy.dense):+.2f} points"
        table.add_row(name, f"{100 * value:.2f} %", change)
    return table


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

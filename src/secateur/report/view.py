"""What the page says of a run, in its own words: numbers with units, rows and drawings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import yaml
from markupsafe import Markup

from secateur.measure.latency import Comparison

from . import units
from .charts import accuracy_charts
from .evidence import LossCurve
from .report import Report
from .svg import bar, spectrum

__all__ = ["Exact", "Group", "Phase", "Tile", "View", "remarks", "views"]


@dataclass(frozen=True)
class Tile:
    """One cost in front of all: what is left, of what, and the share."""

    name: str
    value: str
    change: str  # against dense
    bar: Markup
    note: str = ""


@dataclass(frozen=True)
class Exact:
    """A row of the table of exact figures."""

    name: str
    dense: str
    pruned: str
    ratio: str


@dataclass(frozen=True)
class Group:
    """What happened to one group."""

    name: str
    kept: int
    size: int
    bar: Markup
    loss: str  # at the cut
    spectrum: Markup | None


@dataclass(frozen=True)
class Phase:
    """Where time went."""

    name: str
    seconds: str
    share: str
    bar: Markup


@dataclass(frozen=True)
class View:
    """A run with a number and a name; the rest is made of its report when it is asked for."""

    number: int
    name: str
    report: Report

    @property
    def title(self) -> str:
        """What the network is called."""
        return self.report.model or self.name or "A network"

    @property
    def accuracies(self) -> list[tuple[str, str, str]]:
        """Name, value and change against dense of every accuracy that was measured, the final one last."""
        found = self.report.accuracy
        if found is None:
            return []
        return [
            (name, units.percent(value), "" if name == "dense" else units.change(value, found.dense))
            for name, value in found.steps()
        ]

    @property
    def tiles(self) -> list[Tile]:
        """MACs, parameters, bytes and latency."""
        a, b, t = self.report.before, self.report.after, self.report.latency
        batch = t.batch if t else 1
        macs = "MACs per sample" if t else "MACs of the example inputs"
        found = [
            _tile(macs, a.macs / batch, b.macs / batch, units.kilo),
            _tile("Parameters", a.params, b.params, units.kilo),
            _tile("Bytes on disk", a.bytes, b.bytes, units.size),
        ]
        if s := self.report.sparsity:
            found[1:1] = [
                _tile("Connections", s.before, s.after, units.kilo),
                _tile("Bytes, zipped", s.zip_before, s.zip_after, units.size),
            ]
        if t:
            found.insert(0, _latency(t))
        return found

    @property
    def exact(self) -> list[Exact]:
        """All costs to the last digit."""
        r = self.report
        t = r.latency
        rows = [
            ("Parameters", r.before.params, r.after.params),
            (f"MACs, batch {t.batch}" if t else "MACs of the example inputs", r.before.macs, r.after.macs),
            ("Bytes as safetensors", r.before.bytes, r.after.bytes),
        ]
        if s := r.sparsity:
            rows += [
                ("Connections", s.before, s.after),
                ("Bytes, zipped", s.zip_before, s.zip_after),
            ]
        found = [Exact(n, units.exact(a), units.exact(b), f"{b / a:.3f}" if a else "-") for n, a, b in rows]
        if t:
            d, p = t.dense, t.pruned
            found += [
                Exact("Latency, ms, median", f"{d.median_ms:.3f}", f"{p.median_ms:.3f}", f"{t.ratio:.3f}"),
                Exact(
                    "Latency, ms, quartiles",
                    f"{d.low_ms:.3f} to {d.high_ms:.3f}",
                    f"{p.low_ms:.3f} to {p.high_ms:.3f}",
                    f"{t.ratio_low:.3f} to {t.ratio_high:.3f}",
                ),
            ]
        return found

    @property
    def charts(self) -> list[tuple[str, Markup]]:
        """Accuracy against costs."""
        return accuracy_charts([("", self.report)])

    @property
    def groups(self) -> list[Group]:
        """All groups that could be pruned, in the model's order."""
        r = self.report
        decades = _decades(r)
        return [
            _group(name, kept, size, r.curves.get(name), decades) for name, (kept, size) in r.kept.items()
        ]

    @property
    def refused(self) -> list[tuple[str, list[str]]]:
        """Reasons, and the groups that were left whole for them."""
        found: dict[str, list[str]] = {}
        for group, reason in self.report.refused.items():
            found.setdefault(reason, []).append(group)
        return list(found.items())

    @property
    def phases(self) -> list[Phase]:
        """The time of each phase; the longest fills its bar."""
        times = self.report.seconds
        longest, total = max(times.values(), default=0.0) or 1.0, sum(times.values()) or 1.0
        return [
            Phase(name, units.seconds(s), units.percent(s / total, 0), bar(s / longest, f"{name}: {s:.1f} s"))
            for name, s in times.items()
        ]

    @property
    def total(self) -> str:
        """The time of all phases."""
        return units.seconds(sum(self.report.seconds.values()))

    @property
    def recipe(self) -> str:
        """The recipe as YAML."""
        recipe = self.report.recipe
        # Through JSON, as in an artefact; what is not plain data is shown all the same, and refused when saved.
        plain = json.loads(json.dumps(dict(recipe), default=str))
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True) if plain else ""

    @property
    def provenance(self) -> list[tuple[str, str]]:
        """What has to be known to repeat the run."""
        e = self.report.environment
        return [
            ("secateur", f"{e.secateur}, commit {e.commit}" if e.commit else e.secateur),
            ("PyTorch", e.torch),
            ("Python", e.python),
            ("Processor", f"{e.cpu}, {_count(e.threads, 'thread')}"),
            ("Seed", str(self.report.seed)),
            (
                "Masked = shrunk",
                "outputs of the masked and the shrunk network differ by at most "
                f"{self.report.max_masked_difference:.1e}",
            ),
        ]


def views(reports: Mapping[str, Report]) -> list[View]:
    """Number the runs."""
    return [View(n, name, report) for n, (name, report) in enumerate(reports.items(), 1)]


def remarks(reports: Sequence[Report]) -> Iterator[str]:
    """Say why figures of these runs may not be compared."""
    timed = [(r.latency, r.environment) for r in reports if r.latency]
    if len({r.before.params for r in reports}) > 1:
        yield "The runs started from networks of different sizes: read each against its own dense network."
    if len({(t.batch, t.threads) for t, _ in timed}) > 1:
        yield "Latencies were measured with different batch sizes or numbers of threads: compare ratios only."
    if len({e.cpu for _, e in timed}) > 1:
        yield "Latencies were measured on different processors: compare ratios only."


def _tile(name: str, dense: float, pruned: float, text: units.Text) -> Tile:
    share = pruned / dense if dense else None
    change = f"{share:.2f} of the dense {text(dense)}" if share is not None else "none in the dense network"
    return Tile(name, text(pruned), change, bar(share or 0.0, f"{name}: {change}"))


def _latency(t: Comparison) -> Tile:
    value, dense = (units.milliseconds(x.median_ms) for x in (t.pruned, t.dense))
    paired = f"paired ratio {t.ratio:.2f} (middle half {t.ratio_low:.2f} to {t.ratio_high:.2f})"
    how = f"batch {t.batch}, {_count(t.threads, 'thread')}, medians of {t.rounds} interleaved runs"
    return Tile("Latency", value, f"dense {dense}; {paired}", bar(t.ratio, paired), how)


def _group(name: str, kept: int, size: int, curve: LossCurve | None, decades: tuple[int, int]) -> Group:
    title = f"{name}: {kept} of {size} units kept"
    share = bar(kept / size, title)
    if curve is None:
        return Group(name, kept, size, share, "", None)
    loss = curve.at(kept)
    text = "" if loss is None else units.small(loss)
    drawn = spectrum(curve.units, curve.loss, kept, decades, f"{title}, relative loss {text or 'not known'}")
    return Group(name, kept, size, share, text, drawn)


def _decades(report: Report) -> tuple[int, int]:
    """Return powers of ten that hold all losses at the cuts with room below, and the largest loss."""
    losses = [
        v
        for name, (kept, _) in report.kept.items()
        if name in report.curves
        if (v := report.curves[name].at(kept))
    ]
    most = max((max(c.loss) for c in report.curves.values()), default=1.0)
    low = math.floor(math.log10(min(losses, default=1.0))) - 1
    return max(min(low, -2), -6), max(math.ceil(math.log10(most or 1.0)), 0)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

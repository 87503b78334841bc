"""The one table of a run, from which the text, the page, the notebook, the model card and the command line are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from secateur.measure.count import Size
from secateur.measure.latency import Comparison, Latency, Timing
from secateur.measure.metric import Metric

from . import units
from .evidence import Approach, Sparsity, Structured
from .findings import Findings, Scores

__all__ = [
    "HEAD",
    "Figure",
    "Line",
    "Row",
    "Unit",
    "approach",
    "costs",
    "latency",
    "lines",
    "rows",
    "score",
    "scores",
    "sizes",
    "slower",
]

HEAD = ("", "dense", "pruned", "pruned / dense")
Line = tuple[str, str, str, str]
"""A row as text, in the columns of `HEAD`; what there is not is empty."""


@dataclass(frozen=True)
class Unit:
    """How figures are written: to the last digit, in three digits, and what they differ by if not by a ratio."""

    exact: units.Text
    short: units.Text
    change: Callable[[float, float], str] | None = None
    symbol: str = ""  # of exact figures, told beside their name


COUNT = Unit("{:,.0f}".format, units.kilo)
BYTES = Unit("{:,.0f}".format, lambda value: units.kilo(value, "B"))  # 1 kB is 1,000 bytes
SHARE = Unit("{:.3f}".format, "{:.3f}".format)
TIME = Unit("{:,.2f}".format, lambda ms: f"{units.three(ms)} ms", symbol="ms")


@dataclass(frozen=True)
class Figure:
    """A number, and its quartiles where it is the median of several."""

    value: float
    middle: tuple[float, float] | None = None


@dataclass(frozen=True)
class Row:
    """A cost or a score of the dense and of the pruned network; None where there is no such figure."""

    key: str  # for programs
    name: str  # for people
    dense: Figure | None
    pruned: Figure | None = None
    ratio: Figure | None = None  # pruned / dense
    unit: Unit = COUNT
    note: str = ""  # what has to be known to read it

    @property
    def change(self) -> str:
        """The pruned network against the dense one: a ratio, or a difference where the unit has one."""
        if self.unit.change and self.dense and self.pruned:
            return self.unit.change(self.pruned.value, self.dense.value)
        return f"{self.ratio.value:.3f}" if self.ratio else "-" if self.pruned else ""


def rows(found: Findings) -> list[Row]:
    """Return all rows of a run, costs before scores."""
    way = found.structure.approach if found.structure else None
    listed = costs(found) + (approach(way) if way else [])
    return listed + (scores(found.metric, found.scores) if found.scores else [])


def costs(found: Findings) -> list[Row]:
    """Return what the networks of a run cost."""
    listed = sizes(found.before, found.after)
    if found.sparsity:
        listed += _connections(found.sparsity)
    if found.structure:
        listed += _blocks(found.structure)
    if found.latency:
        listed.append(latency(found.latency))
    if found.deployed:
        row = latency(found.deployed.latency)
        listed.append(replace(row, key="target", name=f"latency in {found.deployed.engine}"))
    return listed


def slower(found: Findings) -> list[str]:
    """Say so where there are fewer MACs and no less time in the engine that the network is meant for."""
    at, dense, left = found.deployed, found.before.macs, found.after.macs
    if at is None or not left < 0.95 * dense or at.latency.ratio < 0.97:
        return []
    remedy = (
        f"try limits=sc.Limits(round_to={at.liked})"
        if at.round_to % at.liked
        else "its time is not in what was removed: ask for a latency budget, or measure at the batch size of use"
    )
    return [
        f"MACs {left / dense:.2f}, but {at.latency.ratio:.2f} times dense in {at.engine} at batch "
        f"{at.latency.batch}: widths may be none that its kernels like, or too small to matter; {remedy}."
    ]


def sizes(dense: Size, pruned: Size | None = None) -> list[Row]:
    """Return what a network has and costs on any machine, alone or beside a pruned one."""
    named = (
        ("params", "parameters", COUNT),
        ("macs", "MACs per sample", COUNT),
        ("bytes", "bytes on disk", BYTES),
    )
    return [
        _pair(key, name, getattr(dense, key), getattr(pruned, key) if pruned else None, unit)
        for key, name, unit in named
    ]


def latency(timed: Comparison | Timing) -> Row:
    """Return the row of measured times; its ratio is that of pairs of runs, not of the two medians."""
    how = f"batch {timed.batch}, {units.count(timed.threads, 'thread')}"
    if isinstance(timed, Timing):
        note = f"median of {timed.rounds} runs, {how}"
        return Row("latency", "latency", _time(timed.latency), unit=TIME, note=note)
    note = f"medians of {timed.rounds} interleaved runs, {how}; ratios are of pairs of runs"
    ratio = Figure(timed.ratio, (timed.ratio_low, timed.ratio_high))
    return Row("latency", "latency", _time(timed.dense), _time(timed.pruned), ratio, TIME, note)


def scores(metric: Metric, found: Scores) -> list[Row]:
    """Return a row for each stage that was scored, or one where only the dense network was."""
    stages = found.steps()[1:]
    if not stages:
        return [score(metric, metric.name, found.dense)]
    return [score(metric, f"{metric.name}, {stage}", found.dense, value) for stage, value in stages]


def score(metric: Metric, name: str, dense: float, pruned: float | None = None) -> Row:
    """Return the row of a score, of one network or beside that of a pruned one."""
    unit = Unit(metric.text, metric.text, metric.change)
    note = "" if metric.higher_is_better else "lower is better"
    return Row("score", name, Figure(dense), None if pruned is None else Figure(pruned), unit=unit, note=note)


def lines(table: Iterable[Row]) -> list[Line]:
    """Return rows as text, quartiles in a line of their own."""
    written: list[Line] = []
    for row in table:
        name = f"{row.name}, {row.unit.symbol}" if row.unit.symbol else row.name
        dense, pruned = (row.unit.exact(f.value) if f else "" for f in (row.dense, row.pruned))
        written.append((name, dense, pruned, row.change))
        if row.dense and row.dense.middle:
            dense, pruned = (_range(figure, row.unit.exact) for figure in (row.dense, row.pruned))
            written.append((f"{name}, quartiles", dense, pruned, _range(row.ratio, "{:.3f}".format)))
    return written


def _pair(key: str, name: str, dense: float, pruned: float | None, unit: Unit = COUNT, note: str = "") -> Row:
    if pruned is None:
        return Row(key, name, Figure(dense), unit=unit, note=note)
    ratio = Figure(pruned / dense) if dense else None
    return Row(key, name, Figure(dense), Figure(pruned), ratio, unit, note)


def _connections(s: Sparsity) -> list[Row]:
    note = "zeros make the zipped file smaller, not the network faster"
    return [
        _pair("connections", "connections", s.before, s.after, note=note),
        _pair("zipped", "bytes, zipped", s.zip_before, s.zip_after, BYTES),
    ]


def _blocks(s: Structured) -> list[Row]:
    note = "counted, of the same shapes; only files and kernels that know blocks save them, torch does not"
    return [
        Row("bits", "bits, counted", None, None, Figure(s.stored_bits), note=note),
        Row("multiplications", "multiplications, counted", None, None, Figure(s.operations), note=note),
    ]


def approach(found: Approach) -> list[Row]:
    """Return how ADMM came to its blocks: what its choice shares with others, and its residuals."""
    note = "when the choice was last renewed; weights W, their copy with blocks Z"
    figures = (
        ("magnitude", "blocks kept as by magnitudes", found.magnitude, found.advice),
        ("same", "blocks kept as before", found.same, note),
        ("primal", "|W - Z| / |W|", found.primal, note),
        ("dual", "|Z - Z before| / |W|", found.dual, note),
    )
    return [Row(key, name, None, Figure(value), None, SHARE, said) for key, name, value, said in figures]


def _time(t: Latency) -> Figure:
    return Figure(t.median_ms, (t.low_ms, t.high_ms))


def _range(figure: Figure | None, text: units.Text) -> str:
    if figure is None or figure.middle is None:
        return ""
    low, high = figure.middle
    return f"{text(low)} to {text(high)}"

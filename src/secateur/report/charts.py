"""Accuracy against cost, of one run or of several."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup

from . import units
from .report import Accuracy, Report
from .svg import Axis, Mark, plot

__all__ = ["accuracy_charts"]

Cost = tuple[
    float, float, tuple[float, float] | None, tuple[float, float] | None
]  # dense, pruned, their spreads


def accuracy_charts(runs: Sequence[tuple[str, Report]]) -> list[tuple[str, Markup]]:
    """Return captions and charts: accuracy against MACs and, where it was measured, against latency.

    `runs` come with the label that their points get; a run without one is alone and its points say what they are.
    """
    scored = [(label, r, r.accuracy) for label, r in runs if r.accuracy]
    if not scored:
        return []
    charts = []
    if all(r.before.macs for _, r, _ in scored):
        each = all(r.latency for _, r, _ in scored)  # a batch size is known
        costs = [_macs(r, r.latency.batch if each and r.latency else 1) for _, r, _ in scored]
        axis = "MACs per sample" if each else "MACs of the example inputs"
        charts.append(("Accuracy against work", _chart(scored, costs, axis, units.tick)))
    timed = [(label, r, a) for label, r, a in scored if r.latency]
    if timed:
        times = [_latency(r) for _, r, _ in timed]
        batches = {r.latency.batch for _, r, _ in timed if r.latency}
        of = f" of {batches.pop()}" if len(batches) == 1 else ""
        charts.append(
            ("Accuracy against time", _chart(timed, times, f"latency, ms per batch{of}", lambda v: f"{v:g}"))
        )
    return charts


def _macs(report: Report, batch: int) -> Cost:
    return report.before.macs / batch, report.after.macs / batch, None, None


def _latency(report: Report) -> Cost:
    t = report.latency
    assert t is not None  # the caller chose the runs that have one
    dense, pruned = ((x.low_ms, x.high_ms) for x in (t.dense, t.pruned))
    return t.dense.median_ms, t.pruned.median_ms, dense, pruned


def _chart(
    runs: Sequence[tuple[str, Report, Accuracy]],
    costs: Sequence[Cost],
    title: str,
    text: units.Text,
) -> Markup:
    marks: list[Mark] = []
    links: list[tuple[Mark, Mark]] = []
    for (label, _, accuracy), (dense, pruned, dense_spread, pruned_spread) in zip(runs, costs, strict=True):
        steps = accuracy.steps()
        for n, (name, value) in enumerate(steps):
            first, last = n == 0, n == len(steps) - 1
            x, spread = (dense, dense_spread) if first else (pruned, pruned_spread)
            alone = f"{name.removeprefix('pruned, ')} {units.percent(value, 1)}"
            shown = alone if not label else label if last else ""
            where = f"{label}: " if label else ""
            mark = Mark(
                x,
                value,
                shown,
                f"{where}{name}, accuracy {units.percent(value)}, {title} {x:,.4g}",
                "dense" if first else "final" if last else "cut",
                spread if first or last else None,
            )
            marks.append(mark)
        own = marks[len(marks) - len(steps) :]
        links += pairwise(own[1:])
        links += [(own[0], own[-1])] if len(own) > 1 else []
    xs = [v for m in marks for v in (m.x, *(m.spread or ()))]
    ys = [m.y for m in marks]
    digits = 0 if max(ys) - min(ys) > 0.05 else 1 if max(ys) - min(ys) > 0.005 else 2
    return plot(
        marks,
        links,
        Axis.over(xs, title, text, zero=True),
        Axis.over(ys, "accuracy", lambda v: units.percent(v, digits)),
        f"Accuracy against {title}",
    )

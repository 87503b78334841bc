"""The charts of a page: scores against costs, the losses of groups, and the way of connection pruning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from secateur.measure.metric import Metric, MetricFormat

from . import units
from .drawing import SMALL, Axis, Chart, Line, Mark
from .evidence import LossCurve
from .findings import Findings, Scores
from .rows import Figure, Row, costs

__all__ = ["pruning_way", "score_charts", "spectra"]

COSTS = ("macs", "connections", "multiplications", "latency")  # each is drawn where it changed
VALIDATION = Metric("validation metric", format=MetricFormat.NUMBER)  # the caller's own, of any kind


def score_charts(runs: Sequence[tuple[str, Findings]]) -> list[Chart]:
    """Return charts of the score against each cost that changed, for one run or for several beside each other.

    `runs` come with the label that their points get; a run without one is alone and its points say what they are.
    Runs with different metrics are not drawn together, and times of different runs only as ratios to their own dense
    network.
    """
    drawn = []
    least = min(len(runs), 2)
    for metric in dict.fromkeys(found.metric for _, found in runs if found.scores):
        for key in COSTS:
            costed = [
                (label, found.scores, row)
                for label, found in runs
                if found.scores and found.metric == metric
                for row in costs(found)
                if row.key == key and row.ratio
            ]
            changed = any(row.ratio and row.ratio.value != 1 for _, _, row in costed)
            if len(costed) >= least and (changed or key == "latency"):
                drawn.append(_score_chart(metric, costed))
    return drawn


def spectra(found: Findings) -> list[Chart]:
    """Return for each group that has one its loss over the number of units kept, all on one logarithmic scale."""
    cuts = {name: pair for name, pair in found.kept.items() if name in found.curves}
    losses = [loss for name, (kept, _) in cuts.items() if (loss := found.curves[name].at(kept))]
    most = max((max(curve.loss) for curve in found.curves.values()), default=1.0)
    # Powers of ten that hold all losses at the cuts with room below, and the largest loss.
    low = max(min(math.floor(math.log10(min(losses, default=1.0))) - 1, -2), -6)
    high = max(math.ceil(math.log10(most or 1.0)), 0)
    step = -(-(high - low) // 4)
    powers = [10.0**power for power in range(high, low - 1, -step)]
    scale = Axis("", 10.0**low, 10.0**high, [(p, f"{100 * p:g} %") for p in powers], log=True)
    return [_spectrum(name, *pair, found.curves[name], scale) for name, pair in cuts.items()]


def pruning_way(curve: Sequence[tuple[float, float]]) -> Chart:
    """Return the validation metric over the share of the connections, as a training run found them."""
    shares, values = [max(share, 1e-6) for share, _ in curve], [value for _, value in curve]
    low, high = math.log10(min(shares)) - 0.1, math.log10(max(shares)) + 0.1
    steps = (1, 2, 3, 5, 7) if high - low < 1 else (1, 2, 5) if high - low < 2.5 else (1,)
    round_ones = [m * 10.0**p for p in range(math.floor(low), math.ceil(high)) for m in steps]
    written = [(t, f"{100 * t:g} %") for t in round_ones if low <= math.log10(t) <= high]
    x = Axis("connections, share of all", 10**low, 10**high, written, log=True)
    y = Axis.over(values, VALIDATION.name, units.tick)
    said = [f"{units.small(s)} of the connections, {VALIDATION.name} {VALIDATION.text(v)}" for s, v in curve]
    marks = [Mark(*point, "", words, "final") for point, words in zip(curve, said, strict=True)]
    return Chart("The way there", "The way there", x, y, marks, [Line("step", curve)])


def _score_chart(metric: Metric, runs: Sequence[tuple[str, Scores, Row]]) -> Chart:
    row = runs[0][2]
    relative = (len(runs) > 1 and row.key == "latency") or row.dense is None
    title = f"{row.name}, pruned / dense" if relative else row.name
    title += ", ms per batch" if row.key == "latency" and not relative else ""
    marks: list[Mark] = []
    links: list[Line] = []
    for label, found, cost in runs:
        dense, pruned = (Figure(1.0), cost.ratio) if relative else (cost.dense, cost.pruned)
        assert dense
        assert pruned  # rows with a ratio alone are relative
        own = []
        steps = found.steps()
        for n, (stage, value) in enumerate(steps):
            first, last = n == 0, n == len(steps) - 1
            place = dense if first else pruned
            alone = f"{stage} {units.percent(value, 1) if _shares(metric) else metric.text(value)}"
            words = f"{f'{label}: ' if label else ''}{stage}, {metric.name} {metric.text(value)}, {title} "
            own.append(
                Mark(
                    place.value,
                    value,
                    (label if last else "") if label else alone,
                    f"{words}{place.value:,.4g}",
                    "dense" if first else "final" if last else "cut",
                    place.middle if first or last else None,
                )
            )
        marks += own
        links += [Line("step", [(a.x, a.y), (b.x, b.y)]) for a, b in pairwise(own[1:])]
        links += [Line("gain", [(own[0].x, own[0].y), (own[-1].x, own[-1].y)])] if len(own) > 1 else []
    xs = [v for m in marks for v in (m.x, *(m.spread or ()))]
    x = Axis.over(xs, title, units.tick, zero=True)
    caption = f"{units.capital(metric.name)} against {row.name}"
    y = _score_axis(metric, [mark.y for mark in marks])
    return Chart(caption, f"{metric.name} against {title}", x, y, marks, links)


def _score_axis(metric: Metric, values: Sequence[float]) -> Axis:
    title = metric.name if metric.higher_is_better else f"{metric.name}, lower is better"
    if not _shares(metric):
        return Axis.over(values, title, units.tick)
    extent = max(values) - min(values)
    digits = 0 if extent > 0.05 else 1 if extent > 0.005 else 2
    return Axis.over(values, title, lambda value: units.percent(value, digits))


def _shares(metric: Metric) -> bool:
    return metric.format is MetricFormat.PERCENT


def _spectrum(name: str, kept: int, size: int, curve: LossCurve, scale: Axis) -> Chart:
    loss = curve.at(kept)
    told = [f"{kept} of {size} units"] + ([] if loss is None else [f"relative loss {units.small(loss)}"])
    most = max(curve.units[-1], 1)
    points = list(zip(curve.units, curve.loss, strict=True))
    # Beyond the lowest power the curve would only run along the edge.
    end = next((i for i, (_, value) in enumerate(points) if value <= scale.low), len(points) - 1)
    words = f"{name}: {', '.join(told)}"
    lines = [Line("line", points[: end + 1]), Line("cut", [(kept, scale.low), (kept, scale.high)])]
    x = Axis("", 0, most, [(0, "0"), (most, f"{most} units")])
    marks = [Mark(kept, loss or 0.0, "", words, "final")]
    return Chart(name, words, x, scale, marks, lines, gone=kept, words=tuple(told), frame=SMALL)

"""What the page shows of findings as tiles and bars; the words around them are the template's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from . import units
from .evidence import FrozenPart, Structured
from .findings import Findings
from .rows import Row, costs

__all__ = ["Strip", "Tile", "blocks", "by_reason", "compared", "left", "phases", "remarks", "stages", "tiles"]


@dataclass(frozen=True)
class Tile:
    """One cost in front of all: what is left, of what, and the share."""

    name: str
    value: str
    change: str  # against dense
    share: float
    note: str


@dataclass(frozen=True)
class Strip:
    """Shares of a whole as a bar, with a name and figures."""

    name: str
    words: str
    shares: Mapping[str, float]  # by style
    cells: tuple[str, ...]

    @staticmethod
    def of(name: str, share: float, *cells: str) -> Strip:
        """Return the strip of one share."""
        return Strip(name, f"{name}: {', '.join(cells)}", {"fill": share}, cells)


def stages(found: Findings) -> list[tuple[str, str, str]]:
    """Return name, value and change against dense of every score, the final one last."""
    metric, steps = found.metric, found.scores.steps() if found.scores else []
    return [
        (name, metric.text(value), metric.change(value, steps[0][1]) if n else "")
        for n, (name, value) in enumerate(steps)
    ]


def tiles(found: Findings) -> dict[str, Tile]:
    """Return the costs by the keys of their rows."""
    return {row.key: _tile(row) for row in costs(found)}


def compared(found: Findings) -> dict[str, Tile]:
    """Return the costs of one run among several: times as paired ratios first: milliseconds are of one run."""
    return {row.key: _beside(row) for row in costs(found)}


def left(pairs: Mapping[str, tuple[int, int]]) -> list[Strip]:
    """Return how many are left of how many, by name."""
    return [
        Strip.of(name, share, f"{kept:,} of {total:,}", units.small(share))
        for name, (kept, total) in pairs.items()
        for share in [kept / max(total, 1)]
    ]


def blocks(structure: Structured) -> list[Strip]:
    """Return what became of the blocks of each weight: shape, number, and shares kept, unified and zero."""
    strips = []
    for name, layer in structure.layers.items():
        kept = layer.blocks - layer.zero - layer.unified
        shares = [part / layer.blocks for part in (kept, layer.unified, layer.zero)]
        told = [units.small(share) for share in shares]
        words = f"{name}: {told[0]} of the blocks kept, {told[1]} unified, {told[2]} zero"
        styles = {"kept": shares[0], "unified": shares[1]}
        strips.append(Strip(name, words, styles, (layer.block, f"{layer.blocks:,}", *told)))
    return strips


def way(structure: Structured) -> str:
    """Return how ADMM came to the blocks, in a sentence behind others; nothing where it did not."""
    a = structure.approach
    if a is None:
        return ""
    return (
        f" {units.percent(a.magnitude, 1)} of the blocks that the dense network's magnitudes keep are kept "
        f"({a.advice}). When the choice was last renewed, {units.percent(a.same, 1)} of the kept blocks were kept "
        f"again, |W - Z| / |W| was {a.primal:.2f} and |Z - Z before| / |W| {a.dual:.2f}."
    )


def phases(seconds: Mapping[str, float]) -> list[Strip]:
    """Return where time went; the longest phase fills its bar."""
    longest, total = max(seconds.values(), default=0) or 1.0, sum(seconds.values()) or 1.0
    return [
        Strip.of(name, s / longest, units.seconds(s), units.percent(s / total)) for name, s in seconds.items()
    ]


def by_reason(named: Mapping[str, str]) -> list[FrozenPart]:
    """Return names that share a reason together, as what is frozen is told."""
    found: dict[str, list[str]] = {}
    for name, reason in named.items():
        found.setdefault(reason, []).append(name)
    return [FrozenPart(reason, tuple(names), ()) for reason, names in found.items()]


def remarks(found: Sequence[Findings]) -> Iterator[str]:
    """Say why figures of these runs may not be compared."""
    timed = [(f.latency, f.environment) for f in found if f.latency]
    if len({f.before.params for f in found}) > 1:
        yield "The runs started from networks of different sizes: read each against its own dense network."
    if len({f.metric for f in found if f.scores}) > 1:
        yield "The runs were scored by different metrics: compare only those with the same one."
    if len({(t.batch, t.threads) for t, _ in timed}) > 1:
        yield "Latencies were measured with different batch sizes or numbers of threads: compare ratios only."
    if len({e.cpu for _, e in timed}) > 1:
        yield "Latencies were measured on different processors: compare ratios only."


def _beside(row: Row) -> Tile:
    tile, ratio = _tile(row), row.ratio
    if ratio is None or ratio.middle is None or row.dense is None:
        return tile
    low, high = ratio.middle
    change = f"middle half {low:.2f} to {high:.2f}; {tile.value}, dense {row.unit.short(row.dense.value)} in this run"
    return Tile(tile.name, f"{ratio.value:.2f} of dense", change, tile.share, tile.note)


def _tile(row: Row) -> Tile:
    name, ratio = units.capital(row.name), row.ratio
    value, dense = (row.unit.short(figure.value) if figure else "" for figure in (row.pruned, row.dense))
    if ratio is None:
        change = "none in the dense network"
    elif not value:  # only the share was counted
        value, change = units.small(ratio.value), "of dense"
    elif ratio.middle is None:
        change = f"{ratio.value:.2f} of the dense {dense}"
    else:
        low, high = ratio.middle
        change = f"dense {dense}; paired ratio {ratio.value:.2f} (middle half {low:.2f} to {high:.2f})"
    return Tile(name, value, change, ratio.value if ratio else 0.0, row.note)

"""What ``secateur measure`` finds: figures of a model, or of an artefact beside its dense model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor, nn

from secateur.artefact import load
from secateur.ground.errors import DataError
from secateur.measure import compare_latency, environment, size, time_model
from secateur.recipes.recipe import DataSpec
from secateur.recipes.samples import resolve_data

__all__ = ["How", "measure_artefact", "measure_model"]


@dataclass(frozen=True)
class How:
    """At least so many timed runs, for at least so many seconds, with so many threads (None: torch's choice)."""

    rounds: int = 30
    seconds: float = 2.0
    threads: int | None = None


def measure_model(
    model: nn.Module, example: Tensor, data: str | None, how: How
) -> tuple[dict[str, Any], Table]:
    """Count and time one model; with labelled data, score it.

    Raises:
        DataError: the data have no labels or cannot be had.
    """
    evaluate = _evaluation(data)
    counts = size(model, (example,))
    timing = time_model(model, (example,), rounds=how.rounds, seconds=how.seconds, threads=how.threads)
    score = evaluate(model) if evaluate else None
    found = {"size": asdict(counts), "timing": asdict(timing), "accuracy": score}
    ms = timing.latency
    table = Table("", "", box=None, show_header=False, pad_edge=False)
    table.add_row("parameters", f"{counts.params:,}")
    table.add_row(f"MACs, batch {timing.batch}", f"{counts.macs:,}")
    table.add_row("bytes", f"{counts.bytes:,}")
    table.add_row(
        "latency", f"{ms.median_ms:.2f} ms ({ms.low_ms:.2f} to {ms.high_ms:.2f}), threads {timing.threads}"
    )
    if score is not None:
        table.add_row("accuracy", f"{100 * score:.2f} %")
    return found | {"environment": asdict(environment())}, table


def measure_artefact(
    folder: Path, dense: nn.Module, example: Tensor, data: str | None, how: How
) -> tuple[dict[str, Any], Table]:
    """Load an artefact onto its dense model's class and compare the two, interleaved.

    Raises:
        ArtefactError: the artefact cannot be read or was made for another model.
        DataError: the data have no labels or cannot be had.
    """
    evaluate = _evaluation(data)
    pruned = load(folder, dense)
    before, after = size(dense, (example,)), size(pruned, (example,))
    times = compare_latency(
        dense, pruned, (example,), rounds=how.rounds, seconds=how.seconds, threads=how.threads
    )
    scores = (evaluate(dense), evaluate(pruned)) if evaluate else None
    found: dict[str, Any] = {"before": asdict(before), "after": asdict(after), "latency": asdict(times)}
    found["accuracy"] = {"dense": scores[0], "pruned": scores[1]} if scores else None
    table = Table("", "dense", "pruned", "pruned / dense", box=SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, a, b in (
        ("parameters", before.params, after.params),
        (f"MACs, batch {times.batch}", before.macs, after.macs),
        ("bytes", before.bytes, after.bytes),
    ):
        table.add_row(name, f"{a:,}", f"{b:,}", f"{b / a:.3f}" if a else "-")
    name = f"latency, ms, threads {times.threads}"
    table.add_row(name, f"{times.dense.median_ms:.2f}", f"{times.pruned.median_ms:.2f}", f"{times.ratio:.3f}")
    if scores:
        old, new = (100 * score for score in scores)
        table.add_row("accuracy", f"{old:.2f} %", f"{new:.2f} %", f"{new - old:+.2f} points")
    return found | {"environment": asdict(environment())}, table


def _evaluation(data: str | None) -> Callable[[nn.Module], float] | None:
    if data is None:
        return None
    evaluate = resolve_data(DataSpec(name=data)).evaluate
    if evaluate is None:
        raise DataError(
            f"The data {data} have no labels: an .npz file needs x and y, a callable returns Samples."
        )
    return evaluate

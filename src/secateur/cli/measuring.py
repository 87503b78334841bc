"""What ``secateur measure`` finds: figures of a model, or of an artefact beside its dense model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from torch import Tensor, nn

from secateur.artefact import load
from secateur.ground.errors import DataError
from secateur.measure import compare_latency, environment, size, time_model
from secateur.measure.metric import Metric
from secateur.recipes.recipe import DataSpec
from secateur.recipes.samples import resolve_data
from secateur.report.rows import latency, score, sizes
from secateur.report.text import shown

__all__ = ["How", "measure_artefact", "measure_model"]

METRIC = Metric()  # of labelled data


@dataclass(frozen=True)
class How:
    """At least so many timed runs, for at least so many seconds, with so many threads (None: torch's choice)."""

    rounds: int = 30
    seconds: float = 2.0
    threads: int | None = None


def measure_model(
    model: nn.Module, example: Tensor, data: str | None, how: How
) -> tuple[dict[str, Any], RenderableType]:
    """Count and time one model; with labelled data, score it.

    Raises:
        DataError: the data have no labels or cannot be had.
    """
    evaluate = _evaluation(data)
    counts = size(model, (example,))
    timing = time_model(model, (example,), rounds=how.rounds, seconds=how.seconds, threads=how.threads)
    right = METRIC.checked(evaluate(model)) if evaluate else None
    found = {"size": asdict(counts), "timing": asdict(timing), "accuracy": right}
    listed = [*sizes(counts), latency(timing)]
    if right is not None:
        listed.append(score(METRIC, METRIC.name, right))
    return found | {"environment": asdict(environment())}, shown(listed)


def measure_artefact(
    folder: Path, dense: nn.Module, example: Tensor, data: str | None, how: How
) -> tuple[dict[str, Any], RenderableType]:
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
    found: dict[str, Any] = {"before": asdict(before), "after": asdict(after), "latency": asdict(times)}
    listed = [*sizes(before, after), latency(times)]
    if evaluate:
        both = [METRIC.checked(evaluate(model)) for model in (dense, pruned)]
        found["accuracy"] = {"dense": both[0], "pruned": both[1]}
        listed.append(score(METRIC, METRIC.name, *both))
    else:
        found["accuracy"] = None
    return found | {"environment": asdict(environment())}, shown(listed)


def _evaluation(data: str | None) -> Callable[[nn.Module], float] | None:
    if data is None:
        return None
    evaluate = resolve_data(DataSpec(name=data)).evaluate
    if evaluate is None:
        raise DataError(
            f"The data {data} have no labels: an .npz file needs x and y, a callable returns Samples."
        )
    return evaluate

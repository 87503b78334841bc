"""Where a run stands: all that a bit-equal resume needs besides optimiser, method and random numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from .checkpoint import under
from .log import Row
from .masks import Masks

__all__ = ["Snapshot", "State"]


@dataclass(frozen=True)
class Snapshot:
    """A network that was validated: weights on the CPU, masks, metric, and where in the run it was found."""

    weights: Mapping[str, Tensor]
    masks: Masks
    metric: float | None
    step: int

    def beats(self, other: Snapshot | None) -> bool:
        """Whether it is sparser than another one, or as sparse and better; of equals the later one counts."""
        if other is None or self.metric is None or other.metric is None:
            return True
        return (-self.masks.kept, self.metric) >= (-other.masks.kept, other.metric)


@dataclass
class State:
    """The position in a run and what was found so far. One object, changed as the run goes on."""

    masks: Masks
    stage: int = 0
    epoch: int = 0
    batch: int = 0  # of the epoch
    step: int = 0  # of the run
    begun: bool = False  # whether the stage has pruned already
    losses: float = 0.0  # their sum since the last row
    counted: int = 0  # how many
    record: float | None = None  # the best metric since the masks shrank
    stale: int = 0  # validations since then without a new record
    seconds: float = 0.0
    dense: float | None = None  # the metric before the first step
    best: Snapshot | None = None  # of this round
    chosen: Snapshot | None = None  # the sparsest above the bound
    rows: list[Row] = field(default_factory=list)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return all tensors, in families."""
        families = {"masks": self.masks.state_dict()}
        for name, snapshot in (("best", self.best), ("chosen", self.chosen)):
            if snapshot is not None:
                families[f"{name} weights"] = dict(snapshot.weights)
                families[f"{name} masks"] = snapshot.masks.state_dict()
        return families

    def to_json(self) -> dict[str, Any]:
        """Return the rest as plain data."""
        plain = {k: v for k, v in vars(self).items() if k not in ("masks", "best", "chosen", "rows")}
        for name, snapshot in (("best", self.best), ("chosen", self.chosen)):
            plain[name] = None if snapshot is None else {"metric": snapshot.metric, "step": snapshot.step}
        return plain | {"rows": [asdict(row) for row in self.rows]}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> State:
        """Return the state that `tensors` and `to_json` wrote."""
        found = {
            name: None
            if data[name] is None
            else Snapshot(
                under(tensors, f"{name} weights"),
                Masks.from_state(under(tensors, f"{name} masks")),
                **data[name],
            )
            for name in ("best", "chosen")
        }
        rows = [Row(**row) for row in data["rows"]]
        return cls(**{**data, **found, "rows": rows, "masks": Masks.from_state(under(tensors, "masks"))})

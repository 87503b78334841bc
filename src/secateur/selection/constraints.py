"""Constraints: what every selection respects, whatever its budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from secateur.ground.errors import BudgetError

__all__ = ["Constraints"]


@dataclass(frozen=True)
class Constraints:
    """What every selection respects: kept units come in multiples of `round_to`, and never fewer than `floor`.

    A group with fewer units than these, or whose number of units is no multiple, may keep all of them. Groups whose
    branch can be replaced by its constant (`Group.removable`) may fall to zero where `whole_branches` is true and
    the floor is one; all others keep at least one unit.

    With `uniform`, all groups of one kind and size keep the same number of units, as servers want them that refuse
    layers of different widths. Groups named in `fixed` (group id: units) do not compete: they keep that many,
    rounded up as any other.

    Raises:
        BudgetError: a number is below one.
    """

    round_to: int = 1
    floor: int = 1
    whole_branches: bool = True
    uniform: bool = False
    fixed: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.round_to < 1 or self.floor < 1:
            raise BudgetError(f"round_to={self.round_to} and floor={self.floor} must be at least 1.")
        wrong = next((id for id, n in self.fixed.items() if n < 1), None)
        if wrong is not None:
            raise BudgetError(
                f"group {wrong} is fixed at {self.fixed[wrong]} units: it must keep at least 1."
            )

    def count(self, size: int, wanted: int, removable: bool = False) -> int:
        """Return how many of `size` units stay where `wanted` would."""
        if wanted <= 0 and removable and self.whole_branches and self.floor == 1:
            return 0
        rounded = -(-max(wanted, self.floor) // self.round_to) * self.round_to
        return min(rounded, size)

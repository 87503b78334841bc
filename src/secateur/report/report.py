"""The report of a run: its findings, and the forms in which people look at them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from rich.console import Group

from .card import model_card
from .findings import Findings
from .page import fragment, page, write_page
from .rows import costs
from .text import as_text, plain, printed, summary

__all__ = ["Report"]


@dataclass(frozen=True, repr=False)
class Report(Findings):
    """The measured result of a run, to print, to show in a notebook, to write as a page or to read as data.

    The fields are those of `Findings`, from which everything that shows them is made: so nothing that shows a report
    has to know this class, which stands above it all.
    """

    def to_json(self) -> dict[str, Any]:
        """Return plain data: what `report.json` holds. The recipe is not part of it: artefacts have `recipe.yaml`."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(replace(self, recipe={}))))
        del data["recipe"]
        return data | {"ratios": self.ratios()}

    def ratios(self) -> dict[str, float | None]:
        """Return pruned / dense of each cost by the key of its row, as params, macs, bytes and latency."""
        found = {row.key: row.ratio.value if row.ratio else None for row in costs(self)}
        return {"latency": None} | found

    def to_html(self, path: str | PathLike[str]) -> Path:
        """Write the report as one self-contained HTML page, and return its path.

        Raises:
            ArtefactError: the file cannot be written.
        """
        return write_page(path, page({self.model: self}))

    def to_card(self) -> str:
        """Return the report as Markdown, for the README.md of a saved network."""
        return model_card(self)

    def __rich__(self) -> Group:
        return as_text(self)

    def __str__(self) -> str:
        return printed(self)

    def __repr__(self) -> str:
        return plain(f"Report({self.method}, budget {self.budget}: {summary(self)})")

    def _repr_html_(self) -> str:
        return fragment(self)

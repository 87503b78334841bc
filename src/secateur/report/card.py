"""A model card: the README.md of a saved network, made from the table of its report."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .findings import Findings
from .rows import HEAD, lines, rows, slower
from .text import history, notes, plain, recipe_text, title

__all__ = ["model_card"]

# What Markdown or HTML could take for more than a character; GitHub also makes links of bare addresses and names.
_ACTIVE = re.compile(r"[\\`*_{}\[\]<>#|~!&$@]|:(?=//)|(?<=www)\.")


def model_card(found: Findings, recipe: Mapping[str, Any] | None = None) -> str:
    """Return Markdown about a pruned network: what was done, the table of figures, and the recipe.

    `recipe` is that of the report, or another one that is shown in its place. Names are written as they are: nothing
    in them becomes markup, a link or code.
    """
    found_rows = rows(found)
    table = [HEAD, ("---", "---:", "---:", "---:"), *(map(_escaped, line) for line in lines(found_rows))]
    text = recipe_text(found.recipe if recipe is None else recipe)
    # Longer than any row of backticks within, so that nothing ends it early.
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    e = found.environment
    made = f"secateur {e.secateur}, torch {e.torch}, Python {e.python}, {e.cpu}"
    parts = [
        "---\ntags:\n- secateur\n- pruned\n---",
        f"# {_escaped(found.model or 'A pruned network')}",
        f"Pruned by secateur: {_escaped(title(found))}.",
        "\n".join(f"| {' | '.join(cells)} |" for cells in table),
        _escaped(" ".join([f"Measured with {made}.", *slower(found), *history(found), *notes(found_rows)])),
        *([f"## Recipe\n\n{fence}yaml\n{text}{fence}"] if text else []),
    ]
    return "\n\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    return _ACTIVE.sub(lambda match: f"&#{ord(match[0])};", plain(text))

"""Equations of einsum, with every dimension by a letter of its own."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_letters

__all__ = ["spelled_out"]


def spelled_out(equation: str, ranks: Sequence[int]) -> tuple[tuple[str, ...], str]:
    """Return the terms and the result: letters stand for the dimensions of an ellipsis, and the result is there.

    `ranks` are the numbers of dimensions of the operands. Ellipses are aligned at their last dimension.

    >>> spelled_out("...d, hde -> ...he", [3, 3])
    (('abd', 'hde'), 'abhe')
    >>> spelled_out("ij,jk", [2, 2])
    (('ij', 'jk'), 'ik')
    """
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    counts = [n - len(t) + 3 if "..." in t else 0 for t, n in zip(terms, ranks, strict=True)]
    spare = "".join(c for c in ascii_letters if c not in equation)[: max(counts)]
    if not arrow:
        once = sorted(c for c in set(inputs) - set(".,") if inputs.count(c) == 1)
        result = "..." * ("..." in inputs) + "".join(once)
    letters = [spare[len(spare) - n :] for n in counts]
    spelled = tuple(term.replace("...", own) for term, own in zip(terms, letters, strict=True))
    return spelled, result.replace("...", spare)

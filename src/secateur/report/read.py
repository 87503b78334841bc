"""Read the report of an artefact: whatever the files hold, the outcome is a report or one clear error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from os import PathLike

from secateur.artefact.files import parse_json, parse_yaml
from secateur.artefact.load import document
from secateur.artefact.manifest import RECIPE, REPORT
from secateur.ground.errors import ArtefactError
from secateur.ground.kinds import MisreadError
from secateur.ground.plain import from_plain

from .report import Report
from .text import plain

__all__ = ["read_report", "report_from_json"]

MAX_NAME, MAX_STRING = 1_024, 10_000  # characters of an entry's name, and of any other text
MAX_VALUES, MAX_POINTS = 5_000_000, 10_000  # in all, and of a curve


def read_report(path: str | PathLike[str]) -> Report:
    """Return the report of an artefact with its recipe; the model is not touched.

    Raises:
        ArtefactError: a file is missing, truncated, hostile or of another version; the message names the entry.
    """
    recipe = parse_yaml(document(path, RECIPE), RECIPE)
    return report_from_json(parse_json(document(path, REPORT), REPORT), recipe)


def report_from_json(data: object, recipe: object = None) -> Report:
    """Return a report from the content of report.json, checked entry by entry, and of recipe.yaml.

    Raises:
        ArtefactError: an entry is missing, unknown, of the wrong kind or out of range.
    """
    if not isinstance(data, dict):
        raise _error("it must hold a mapping")
    if recipe is not None and not isinstance(recipe, dict):
        raise _error("it must hold a mapping", RECIPE)
    _check(data, REPORT)
    _check(recipe, RECIPE)
    given = {name: value for name, value in data.items() if name != "ratios"}  # they follow from the rest
    if "recipe" in given:
        raise _error("unknown entry 'recipe'")
    given["recipe"] = recipe or {}
    try:
        report: Report = from_plain(Report, given)
    except MisreadError as error:
        raise _error(plain(error.faults[0]).removesuffix(".")) from None
    for fault in _faults(report):
        raise _error(fault)
    return report


def _check(data: object, name: str) -> None:
    """Refuse values that no report has and that no page should have to show."""
    left, seen = [data], 0
    while left:
        value = left.pop()
        seen += 1
        if isinstance(value, dict):
            for key in value:
                _check_text(str(key), name, MAX_NAME)
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
        elif isinstance(value, str):
            _check_text(value, name, MAX_STRING)
        elif isinstance(value, int | float) and not abs(value) < 2**63:  # "not": NaN compares with nothing
            raise _error("a number beyond all measure", name)
        if seen + len(left) > MAX_VALUES:
            raise _error(f"more than {MAX_VALUES:,} values", name)


def _check_text(text: str, name: str, most: int) -> None:
    if len(text) > most:
        raise _error(f"a text of {len(text)} characters, {text[:30]!a}...", name)
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise _error(f"{text[:30]!a} is not Unicode text", name)


def _faults(r: Report) -> Iterator[str]:
    """Yield what contradicts itself, or would make a drawing that nobody can read."""
    if min(n for s in (r.before, r.after, r.original or r.before) for n in (s.params, s.macs, s.bytes)) < 0:
        yield "a negative number of parameters, MACs or bytes"
    if any(s < 0 for s in r.seconds.values()):
        yield "seconds: a phase took less than none"
    for group, (kept, size) in r.kept.items():
        if not 0 <= kept <= size or size == 0:
            yield f"kept: {group!r:.60} keeps {kept} of {size} units"
    for group, curve in r.curves.items():
        if not 0 < len(curve.units) == len(curve.loss) <= MAX_POINTS:
            yield f"curves: {group!r:.60} has {len(curve.units)} units and {len(curve.loss)} losses"
        elif list(curve.units) != sorted(set(curve.units)) or curve.units[0] < 0 or min(curve.loss) < 0:
            yield f"curves: {group!r:.60} must ascend from zero or more"
    for t in filter(None, (r.latency, r.deployed.latency if r.deployed else None)):
        spreads = [(x.low_ms, x.median_ms, x.high_ms) for x in (t.dense, t.pruned)]
        spreads.append((t.ratio_low, t.ratio, t.ratio_high))
        if min(t.batch, t.threads, t.rounds) < 1 or any(low < 0 or middle <= 0 for low, middle, _ in spreads):
            yield "latency: times, ratios, the batch, threads and rounds must be positive"
        if any(not low <= middle <= high for low, middle, high in spreads):
            yield "latency: a median is outside of its quartiles"
    if s := r.sparsity:
        if not 0 <= s.after <= s.before or min(s.zip_before, s.zip_after) < 0:
            yield "sparsity: more connections than before, or a negative number"
        if len(s.curve) > MAX_POINTS or any(not 0 <= share <= 1 for share, _ in s.curve):
            yield f"sparsity: a curve has at most {MAX_POINTS} points, their shares in 0..1"
        for name, (left, total) in s.layers.items():
            if not 0 <= left <= total:
                yield f"sparsity: {name!r:.60} keeps {left} of {total} connections"
    if b := r.structure:
        if not all(
            0 <= share <= 2 for share in (b.stored_bits, b.coded_bits, b.operations)
        ):  # states cost bits
            yield "structure: a share of bits or multiplications is out of range"
        if (a := b.approach) and not (
            0 <= a.same <= 1 and 0 <= a.magnitude <= 1 and min(a.primal, a.dual) >= 0
        ):
            yield "structure: a share of common blocks is out of range, or a residual negative"
        for name, layer in b.layers.items():
            if not re.fullmatch(r"\d{1,9}(x\d{1,9}){1,2}", layer.block, re.ASCII):
                yield f"structure: {layer.block!r:.60} is no block"
            if min(layer.zero, layer.unified) < 0 or not 0 < layer.blocks >= layer.zero + layer.unified:
                yield f"structure: {name!r:.60} has more zero and unified blocks than its {layer.blocks}"


def _error(what: str, name: str = REPORT) -> ArtefactError:
    return ArtefactError(
        f"{name}: {what}. It was changed, or written by another version of secateur: "
        "update secateur, or make the artefact again."
    )
